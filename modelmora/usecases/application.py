"""All use cases in one value: the one core behind every door."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.usecases.admission import Limits
from modelmora.usecases.embed import Embed
from modelmora.usecases.embed_stream import EmbedStream
from modelmora.usecases.embed_watched import EmbedWatched
from modelmora.usecases.health import Health
from modelmora.usecases.models import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What a door may call."""

    embed: Embed
    embed_stream: EmbedStream
    embed_watched: EmbedWatched
    models: Models
    health: Health
    limits: Limits
    version: str
