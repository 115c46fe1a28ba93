"""What `precision: auto` was found to mean: small files in the data folder, shared by all workers of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import structlog

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from runners import precision
from runners.precision import BYTES, Concrete
from runners.provider import AnyProvider, Loaded, Tell

log = structlog.get_logger(__name__)

RULES = "1"
"""Part of every key: what was decided by other samples or another gate is decided anew."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """A decision stands for the same weights, configuration, hardware and torch; `folder` None remembers nothing.

    Reads whole files: call it in a thread.
    """

    folder: Path | None

    def key(self, spec: ModelSpec, files: Sequence[Path], device: str) -> str:
        """What the decision depends on, in 32 letters; the digests of files that did not change are remembered."""
        parts = [RULES, precision.hardware(device), json.dumps(dict(spec.config), sort_keys=True, default=str)]
        return _short("\n".join([*parts, *(self._digest(file) for file in files)]))

    def stored(self, key: str) -> Concrete | None:
        """What was decided, if it was."""
        told = self._read(f"{key}.json").get("precision")
        return cast(Concrete, told) if told in BYTES else None

    def store(self, key: str, decided: Concrete, facts: Mapping[str, Any]) -> None:
        """Replaces the file in one step; `facts` are for those who read it."""
        self._write(f"{key}.json", {"precision": decided, **facts})

    def resolved(self, spec: ModelSpec, provider: object, folder: Path | None, device: str) -> ModelSpec:
        """The model as it is to be loaded: `auto` is what was decided, if something was; all else stays as it is."""
        if spec.precision != "auto" or not isinstance(provider, precision.Choosable):
            return spec
        decided = self.stored(self.key(spec, provider.files(spec, folder), device))
        return spec if decided is None else replace(spec, precision=decided)

    @contextlib.contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Whether this process alone may measure for the key now; a process that dies gives its claim back."""
        if self.folder is None:
            yield True
            return
        import fcntl  # noqa: PLC0415 - not on every system

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def _digest(self, file: Path) -> str:
        """The file's sha256, remembered by path, size and time of change."""
        status = file.stat()
        seen = {"path": str(file.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        name = f"digest-{_short(str(seen['path']))}.json"
        known = self._read(name)
        if {field: known.get(field) for field in seen} == seen and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        self._write(name, {**seen, "sha256": digest})
        return digest

    def _read(self, name: str) -> dict[str, Any]:
        if self.folder is None:
            return {}
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Atomic; a folder that cannot be written costs the memory of it, nothing else."""
        if self.folder is None:
            return
        text = json.dumps(content, indent=2)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".part", delete=False) as file:
                file.write(text)
            os.replace(file.name, self.folder / name)
        except OSError as cause:
            log.warning("decision_not_stored", file=name, why=str(cause))


class Converting(Protocol):
    """Where the networks of models lie that another library runs."""

    def open(self, spec: ModelSpec, provider: AnyProvider, folder: Path | None, *, threads: int) -> Loaded | None:
        """None for a model that its provider loads; raises ModelLoadFailed."""
        ...


class Deciding:
    """A provider that loads `auto` as it was decided, and from elsewhere what another library runs.

    Without a decision the provider itself knows what to do.
    """

    def __init__(self, provider: AnyProvider, decisions: Decisions, conversions: Converting | None = None) -> None:
        self._provider = provider
        self._decisions = decisions
        self._conversions = conversions

    def tasks(self) -> frozenset[Task]:
        return self._provider.tasks()

    def layout(self) -> Layout | None:
        return self._provider.layout()

    def needs_files(self) -> bool:
        return self._provider.needs_files()

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        return self._provider.describe(spec, folder)

    def prepare(self) -> None:
        self._provider.prepare()

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Loaded:
        if self._conversions is not None:  # asked first: what was decided is torch's precision, not another library's
            converted = self._conversions.open(spec, self._provider, folder, threads=threads)
            if converted is not None:
                return converted
        as_decided = self._decisions.resolved(spec, self._provider, folder, device)
        return self._provider.load(as_decided, folder, device=device, threads=threads, tell=tell)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
