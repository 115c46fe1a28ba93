"""What `auto` was found to mean, of engines and precisions: small files in the data folder, for all workers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners import precision
from runners.engines.kinds import FORMATS, library, versions
from runners.forms import Choosable, Form, allowed, first, undecided
from runners.precision import BYTES
from runners.provider import AnyProvider, Loaded, Tell

log = structlog.get_logger(__name__)

RULES = "3"
"""Part of every question: what was decided by other samples or another gate is decided anew."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """A decision stands for the same weights, configuration, hardware and torch; `folder` None remembers nothing.

    Reads whole files: call it in a thread.
    """

    folder: Path | None

    def key(self, spec: ModelSpec, files: Sequence[Path], device: str) -> str:
        """The model's content and what runs it, in 32 letters; digests of files that did not change are remembered."""
        parts = [precision.hardware(device), json.dumps(dict(spec.config), sort_keys=True, default=str)]
        return _short("\n".join([*parts, *(self.digest(file) for file in files)]))

    def question(self, spec: ModelSpec, provider: Choosable, folder: Path | None, device: str) -> str:
        """What a decision stands for, in 32 letters: the model's content, and the forms there are to choose from."""
        of_model = self.key(spec, provider.files(spec, folder), device)
        among = allowed(spec, provider, device)
        of_libraries = [library(one.engine).version() for one in among if one.engine != "torch"]
        parts = (RULES, of_model, *map(str, among), *of_libraries, *(versions() if of_libraries else ()))
        return _short("\n".join(parts))

    def stored(self, question: str) -> Form | None:
        """What was decided, if it was."""
        told = self._read(f"{question}.json")
        if told.get("precision") not in BYTES or told.get("engine") not in ("torch", *FORMATS):
            return None
        return Form(told["engine"], told["precision"])

    def store(self, question: str, decided: Form, facts: Mapping[str, Any]) -> None:
        """Replaces the file in one step; `facts` are for those who read it."""
        self._write(f"{question}.json", {**decided.to_dict(), **facts})

    def withdraw(self, question: str) -> None:
        """What was decided does not hold any more; it is found out anew."""
        if self.folder is not None:
            (self.folder / f"{question}.json").unlink(missing_ok=True)

    def resolved(self, spec: ModelSpec, provider: object, folder: Path | None, device: str) -> ModelSpec:
        """The model as it is to be loaded: `auto` is what was decided, else torch and fp32 as far as they are open.

        All else, and families that have one form only, stay as they are.
        """
        if not undecided(spec) or not isinstance(provider, Choosable):
            return spec
        decided = self.stored(self.question(spec, provider, folder, device))
        return (decided or first(spec, provider, device)).put_into(spec)

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

    def digest(self, file: Path) -> str:
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

    async def ensure(self, spec: ModelSpec, provider: object, folder: Path | None) -> None:
        """Makes them where they are not there; raises ModelLoadFailed."""
        ...

    def open(self, spec: ModelSpec, provider: AnyProvider, folder: Path | None, *, threads: int) -> Loaded | None:
        """None for a model that its provider loads; raises ModelLoadFailed."""
        ...


class Deciding:
    """A provider that loads `auto` as it was decided, and from elsewhere what another library runs.

    Each question to the decisions reads files: `load` runs in a thread.
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

    async def convert(self, spec: ModelSpec, folder: Path | None, device: str) -> None:
        """Exports the model where it is to be run by another library than torch; raises what that raises.

        An `auto` that was decided to be one which cannot be had any more goes back to torch until it is decided anew.
        """
        if self._conversions is None:
            return
        wanted = await asyncio.to_thread(self._decisions.resolved, spec, self._provider, folder, device)
        try:
            await self._conversions.ensure(wanted, self._provider, folder)
        except ModelLoadFailed as error:
            if self._usual(spec, wanted, device) is None:
                raise
            await asyncio.to_thread(self._withdraw, spec, folder, device, error)

    def _withdraw(self, spec: ModelSpec, folder: Path | None, device: str, error: ModelLoadFailed) -> None:
        log.warning("decision_withdrawn", model=spec.name, version=spec.version, why=error.detail)
        if isinstance(self._provider, Choosable):
            self._decisions.withdraw(self._decisions.question(spec, self._provider, folder, device))

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Loaded:
        as_decided = self._decisions.resolved(spec, self._provider, folder, device)
        try:
            converted = self._converted(as_decided, folder, threads)
        except ModelLoadFailed as error:
            usual = self._usual(spec, as_decided, device)
            if usual is None:
                raise
            self._withdraw(spec, folder, device, error)
            as_decided, converted = usual, self._converted(usual, folder, threads)
        if converted is not None:
            return converted
        return self._provider.load(as_decided, folder, device=device, threads=threads, tell=tell)

    def _converted(self, spec: ModelSpec, folder: Path | None, threads: int) -> Loaded | None:
        if self._conversions is None:
            return None
        return self._conversions.open(spec, self._provider, folder, threads=threads)

    def _usual(self, spec: ModelSpec, decided: ModelSpec, device: str) -> ModelSpec | None:
        """What the model is without a decision; None where nothing was decided."""
        usual = first(spec, self._provider, device).put_into(spec)
        return None if not undecided(spec) or usual == decided else usual


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
