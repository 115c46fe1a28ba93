"""What a file that declares models changes about what is registered under one name: decided, not yet done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from modelmora.domain.models import ModelSpec
from modelmora.domain.registry.entries import Model, ModelVersion, Running
from modelmora.domain.registry.lifecycle import VersionState
from modelmora.domain.registry.provenance import PerformanceBaseline
from modelmora.errors import Conflict, ModelMoraError
from modelmora.ports import Write
from modelmora.usecases.registry.trace import Actor, told, written

FILE = "ModelRegistry.yaml"
"""Who does it, as the audit calls him."""
_REACHED: frozenset[VersionState] = frozenset({"approved", "deployed"})
_SHUT: frozenset[VersionState] = frozenset({"archived", "quarantined", "purged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """One name: what is declared of it, in the file's order, and what is registered.

    `versions` are those that are declared now or were so, by their numbers; `removed` the sources of those that were
    removed; `new_ids` are for what is not there yet, enough of them.
    """

    name: str
    specs: Sequence[ModelSpec]
    model: Model | None
    versions: Mapping[str, ModelVersion]
    removed: Mapping[str, str] = field(default_factory=dict)
    new_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A declaration that does not hold, and why."""

    key: str
    error: ModelMoraError


class Decision:
    """What is to be written, in order, and what is refused: nothing where all is as declared."""

    def __init__(self, given: Name, *, at: datetime, by: Actor) -> None:
        self.writes: list[Write] = []
        self.refused: list[Refused] = []
        self._given = given
        self._at = at
        self._by = by
        self._ids = iter(given.new_ids)
        self._now = dict(given.versions)
        self._take_over()
        kept = {spec.version for spec in given.specs}
        self._drop(one for number, one in given.versions.items() if one.declared and number not in kept)
        self._name()

    def _take_over(self) -> None:
        for spec in self._given.specs:
            try:
                self._declare(spec)
            except ModelMoraError as error:
                self.refused.append(Refused(key=spec.key, error=error))

    def _declare(self, spec: ModelSpec) -> None:
        """Raises what the entries raise, and Conflict for what is not the file's to say."""
        model = self._given.model
        type_ = self._given.specs[0].type if model is None else model.type
        if spec.type != type_:
            said = f"{spec.name} is a model of type {type_}; one of type {spec.type} takes another name"
            raise Conflict(said, field="type", found=spec.type, expected=type_)
        before = self._now.get(spec.version)
        after = self._new(spec) if before is None else _taken(before, spec, at=self._at)
        if after is not None:
            self._write("version.declare", before, after)

    def _new(self, spec: ModelSpec) -> ModelVersion:
        had = self._given.removed.get(spec.version)
        if had not in (None, spec.source):
            said = f"{spec.key} was removed and had another source; take another number"
            raise Conflict(said, field="version", found=spec.source[:80], expected=str(had)[:80])
        return ModelVersion(
            id=next(self._ids),
            model=spec.name,
            version=spec.version,
            type=spec.type,
            state="approved",
            source=spec.source,
            declared=True,
            running=_running(spec),
            created_at=self._at,
            changed_at=self._at,
        )

    def _drop(self, versions: Iterable[ModelVersion]) -> None:
        """What is not declared any more is archived, unless its model's name stands for it by somebody's choice."""
        model = self._given.model
        for one in versions:
            chosen = model is not None and model.chosen and model.current == one.version
            if not chosen and one.state not in _SHUT:
                self._archive(one)

    def _archive(self, one: ModelVersion) -> None:
        if one.state == "deployed":
            one = self._write("version.undeploy", one, one.moved("undeploy", at=self._at))
        self._write("version.archive", one, replace(one.moved("archive", at=self._at), declared=False))

    def _name(self) -> None:
        """The name stands for the last that is declared, unless somebody chose another."""
        model = self._given.model
        reached = [one for spec in self._given.specs if (one := self._now.get(spec.version)) and _ours(one)]
        last = reached[-1] if reached else None
        if model is not None and model.chosen:
            return
        if last is not None and last.state != "deployed":
            last = self._write("version.deploy", last, last.moved("deploy", at=self._at))
        if model is None:
            self._add_model(last)
        elif last is not None and model.current != last.version:
            self._move(model, last.version)
        elif last is None and (gone := self._now.get(model.current or "")) and gone.state not in _REACHED:
            self._move(model, None)

    def _add_model(self, current: ModelVersion | None) -> None:
        """Before its versions; none where no version of it holds."""
        if not self.writes or current is None:
            return
        made = Model(
            id=next(self._ids),
            name=self._given.name,
            type=current.type,
            owner=self._by.name,
            current=current.version,
            created_at=self._at,
            changed_at=self._at,
        )
        self.writes.insert(0, written(self._by, "model.declare", None, made))

    def _move(self, model: Model, version: str | None) -> None:
        moved = replace(model, current=version, changed_at=self._at, row=model.row + 1)
        self.writes.append(written(self._by, "model.make_current", model, moved))
        old = self._now.get(model.current or "")
        if old is not None and old.state == "deployed":
            self._write("version.undeploy", old, old.moved("undeploy", at=self._at))

    def _write(self, action: str, before: ModelVersion | None, after: ModelVersion) -> ModelVersion:
        self.writes.append(written(self._by, action, before, after))
        self._now[after.version] = after
        return after


def _taken(before: ModelVersion, spec: ModelSpec, *, at: datetime) -> ModelVersion | None:
    """The version as it is declared now; None where it is so already. Raises Conflict for what is not the file's."""
    if before.declared is None:
        said = f"{spec.key} was registered by somebody; what the file declares takes another number"
        raise Conflict(said, field="version", found=spec.version)
    after = replace(before, running=_running(spec), source=spec.source, declared=True)
    if told(after) == told(before):
        return None
    if before.state == "purged":
        raise Conflict(f"{spec.key} was purged; take another number", field="version", found=spec.version)
    if _substance(after) != _substance(before):
        after = replace(after, inputs=(), outputs=(), labels=(), validated_at=None, failure="")
        after = replace(after, baseline=PerformanceBaseline(metrics=before.baseline.metrics))
    elif before.declared:
        return replace(after, changed_at=at, row=before.row + 1)
    state: VersionState = before.state if before.state in ("deployed", "quarantined") else "approved"
    return replace(after, state=state, changed_at=at, row=before.row + 1)


def _substance(version: ModelVersion) -> tuple[object, ...]:
    """What makes other outputs when it changes."""
    running = told(version)["running"]
    return version.source, *(running[name] for name in ("provider", "config", "precision", "engine"))


def _ours(version: ModelVersion) -> bool:
    return version.declared is True and version.state in _REACHED


def _running(spec: ModelSpec) -> Running:
    return Running(
        provider=spec.provider,
        config=spec.config,
        group=spec.group,
        device=spec.device,
        precision=spec.precision,
        engine=spec.engine,
        batching=spec.batching,
        warmup=spec.warmup,
        pin=spec.pin,
        idle_ttl_s=spec.idle_ttl_s,
        index=spec.index,
        default=spec.default,
    )
