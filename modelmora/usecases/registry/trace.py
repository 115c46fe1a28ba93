"""Who does something, and what the audit is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from modelmora.domain.registry.audit import Change
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.errors import PreconditionFailed
from modelmora.ports import Write

_MODEL, _VERSION = TypeAdapter(Model), TypeAdapter(ModelVersion)

POLICY = "policy"
"""The actor of what nobody has to decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks, and in which request."""

    name: str
    request_id: str


def change(
    by: Actor, action: str, before: Model | ModelVersion | None, after: Model | ModelVersion | None, *, reason: str = ""
) -> Change:
    """An entry of the audit about an entry of the registry, of which at least one state is there."""
    entry = after or before
    if entry is None:
        raise ValueError("a change of nothing")
    return Change(
        actor=by.name,
        action=action,
        subject=entry.key,
        request_id=by.request_id,
        before=None if before is None else told(before),
        after=None if after is None else told(after),
        reason=reason,
    )


def refuse_other(entry: Model | ModelVersion, row: int | None) -> None:
    """Raises PreconditionFailed where the entry is not as it was read; `row` None: whatever it is."""
    if row is not None and row != entry.row:
        said = f"{entry.key} was changed meanwhile; read it again"
        raise PreconditionFailed(said, field="row", found=str(entry.row), expected=str(row))


def told(entry: Model | ModelVersion) -> dict[str, Any]:
    """An entry as JSON's values."""
    adapter: TypeAdapter[Any] = _VERSION if isinstance(entry, ModelVersion) else _MODEL
    value: dict[str, Any] = adapter.dump_python(entry, mode="json")
    return value


def written(
    by: Actor,
    action: str,
    before: Model | ModelVersion | None,
    after: Model | ModelVersion,
    *,
    reason: str = "",
) -> Write:
    """A change that holds together with others."""
    return Write(entry=after, change=change(by, action, before, after, reason=reason))
