"""The files of models where a test says that they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from modelmora.domain.models import ModelSpec


class Folders:
    """What a runner asks for a model's files."""

    def __init__(self, locate: Callable[[ModelSpec], Path | None] = lambda _: None) -> None:
        self.locate = locate

    @asynccontextmanager
    async def using(self, model: ModelSpec) -> AsyncIterator[Path | None]:
        yield self.locate(model)
