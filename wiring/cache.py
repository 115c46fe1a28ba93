"""What was embedded before, in front of the runners."""

from __future__ import annotations

from adapters.cache.null import NullCache
from modelmora.ports import Embedder, EmbeddingCache
from modelmora.usecases.cached import CachedEmbedder
from runners.inference import RunnerInference


def remembering(inference: RunnerInference, cache: EmbeddingCache) -> Embedder:
    """The runners behind the cache; by themselves where nothing is remembered: to digest each picture costs too."""
    return inference if isinstance(cache, NullCache) else CachedEmbedder(inference, inference, cache)
