"""The side file of a long run: one line for each embedding that is done, so that a broken-off run goes on."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from modelmora.cli.sources import Source
from modelmora.client import Embedding


class Journal:
    """`<output>.partial.jsonl`; what it holds counts for the same model, version, size and modification time only."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.partial.jsonl")
        self._file: IO[str] | None = None

    def recall(self, model: str) -> dict[Source, Embedding]:
        """What earlier runs did with `model` (`name@version`); a line that was cut off is as if never written."""
        if not self.path.exists():
            return {}
        found = (_parse(line) for line in self.path.read_text("utf-8", "replace").splitlines())
        return {source: embedding for source, embedding in filter(None, found) if embedding.key == model}

    def __enter__(self) -> Self:
        """Opens for appending; a cut-off last line is ended first, so that it cannot spoil the next."""
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if torn and self.path.stat().st_size:
            self._file.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def record(self, source: Source, embedding: Embedding) -> None:
        """Written through at once."""
        if self._file is None:
            raise ValueError("the journal is not open")
        entry = {
            "kind": source.kind,
            "name": source.name,
            "size": source.size,
            "mtime_ns": source.mtime_ns,
            "model": embedding.model,
            "version": embedding.version,
            "embedding": base64.b64encode(embedding.data).decode("ascii"),
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _parse(line: str) -> tuple[Source, Embedding] | None:
    try:
        entry = json.loads(line)
        source = Source(entry["kind"], entry["name"], entry["size"], entry["mtime_ns"])
        data = base64.b64decode(entry["embedding"], validate=True)
        return source, Embedding(data=data, model=entry["model"], version=entry["version"])
    except (ValueError, LookupError, TypeError):
        return None
