"""transformers' networks of pictures in memory: DINOv2's vectors, and the logits of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from modelmora.domain.description import Description
from modelmora.domain.models import Task
from modelmora.errors import ModelLoadFailed
from runners.networks.network import Network
from runners.networks.transfer import Compute

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.provider import Tell

Pooling: TypeAlias = Literal["cls", "mean"]


class PictureNetwork(Network):
    """One that takes pictures and nothing else."""

    def sample(self, task: Task) -> NDArray[np.generic]:
        image = self.description.image
        return np.zeros((image.height, image.width, 3) if image else (1, 1, 3), dtype=np.uint8)

    def of_pictures(
        self, batch: Sequence[NDArray[np.generic]], compute: Compute, *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        """What `compute` makes of the normalised pixels; raises OutOfMemory."""
        return self.run(
            batch, lambda stacked: compute(self.normalised(stacked)), through=self._model, threads=threads, tell=tell
        )


def pooled(network: nn.Module, pixels: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(n, dimension) vectors of length 1, of (n, 3, height, width) normalised pixels."""
    tokens = network(pixel_values=pixels).last_hidden_state
    if pooling == "cls":
        return normalize(tokens[:, 0].float(), dim=-1)
    before_patches = 1 + int(getattr(network.config, "num_register_tokens", 0))
    return normalize(tokens[:, before_patches:].float().mean(dim=1), dim=-1)


class Dinov2(PictureNetwork):
    """Pictures to vectors: the class token, or the mean of the patches (Oquab et al. 2023)."""

    def __init__(self, model: nn.Module, description: Description, *, pooling: Pooling, **options: Any) -> None:
        super().__init__(model, description, **options)
        self._pooling = pooling

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        if task != "embed_image":
            raise ValueError(f"{self.description.model} does not {task}")
        return self.of_pictures(batch, self._vectors, threads=threads, tell=tell)

    def _vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled(self._model, pixels, self._pooling)


class Classifier(PictureNetwork):
    """Pictures to logits, one of each label."""

    def classify(
        self, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        return self.of_pictures(batch, self._logits, threads=threads, tell=tell)

    def prove(self) -> None:
        """Runs one picture; raises ModelLoadFailed where the network does not take its size, or has other labels."""
        name, labels = self.description.model, len(self.description.labels)
        try:
            found = self.classify([self.sample("classify")]).shape[1]
        except (ValueError, RuntimeError) as cause:
            raise ModelLoadFailed(f"{name}: the network does not take what its processor makes: {cause}") from cause
        if found != labels:
            said = f"{name}: the network has {found} classes, its configuration names {labels}"
            raise ModelLoadFailed(said, field="config.json: id2label", found=str(labels), expected=str(found))

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(pixel_values=pixels).logits
        return logits.float()
