"""A model whose networks another library runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners.engines.conversion import SUFFIXES, file_of
from runners.engines.kinds import Format, Kind, Session, library
from runners.networks import exhaustion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.provider import Tell


class Converted:
    """Fulfils `Embeds` and `Classifies`; threads are the sessions' own."""

    device = "cpu"

    def __init__(
        self,
        description: Description,
        sessions: Mapping[Task, Session],
        *,
        engine: Kind,
        precision: Format,
        weight_bytes: int,
    ) -> None:
        self.description = description
        self.engine = engine
        self.precision: str = precision
        self.weight_bytes = weight_bytes
        self._sessions = dict(sessions)

    def sample(self, task: Task) -> NDArray[np.generic]:
        image, text = self.description.image, self.description.text
        if task != "embed_text" and image is not None:
            return np.zeros((image.height, image.width, 3), dtype=np.uint8)
        return np.ones(text.context_length if text else 77, dtype=np.int32)

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        much = f"a batch of {len(batch)} for {self.description.model} does not fit into memory"
        with exhaustion.told_as_one(much):
            return self._sessions[task].run(np.stack(batch))

    def classify(
        self, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        return self.embed("classify", batch, threads=threads, tell=tell)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


def open_converted(
    spec: ModelSpec,
    description: Description,
    folder: Path,
    engine: Kind,
    format_: Format,
    *,
    tasks: Sequence[Task],
    threads: int,
) -> Converted:
    """From the folder of a conversion; raises ModelLoadFailed where a network is not there or cannot be opened."""
    try:
        sessions = {
            task: library(engine).open(file_of(folder, engine, task), format_, threads=threads) for task in tasks
        }
    except Exception as cause:  # each library has errors of its own
        said = f"{engine} cannot open its exported networks in {folder}: {cause}; remove the folder and load it again"
        raise ModelLoadFailed(f"{spec.key}: {said}") from cause
    weights = (file for file in folder.iterdir() if file.suffix in (".bin", SUFFIXES["onnxruntime"]))
    return Converted(
        description,
        sessions,
        engine=engine,
        precision=format_,
        weight_bytes=sum(file.stat().st_size for file in weights),
    )
