"""All use cases in one value: the one core behind every door."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.errors import DependencyUnavailable
from modelmora.usecases.admission import Limits
from modelmora.usecases.classify import Classify
from modelmora.usecases.compare import Compare
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.describe import Describe
from modelmora.usecases.embed import Embed
from modelmora.usecases.embed_stream import EmbedStream
from modelmora.usecases.embed_watched import EmbedWatched
from modelmora.usecases.health import Health
from modelmora.usecases.models import Models
from modelmora.usecases.pictures.gallery import Gallery
from modelmora.usecases.predict import Predict
from modelmora.usecases.registry import Registry
from modelmora.usecases.segment import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What a door may call."""

    embed: Embed
    embed_stream: EmbedStream
    embed_watched: EmbedWatched
    classify: Classify
    segment: Segment
    predict: Predict
    compare: Compare
    models: Models
    describe: Describe
    decoding: Decoding
    health: Health
    registry: Registry
    limits: Limits
    version: str
    gallery: Gallery | None = None

    @property
    def kept(self) -> Gallery:
        """Raises DependencyUnavailable where no pictures are kept."""
        if self.gallery is None:
            raise DependencyUnavailable("no pictures are kept here: there is nothing to keep them in")
        return self.gallery
