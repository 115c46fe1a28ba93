"""What is registered as plain JSON-ready dictionaries, shared by the registry's routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from api import render
from modelmora.domain.registry.artifact import Artifact
from modelmora.domain.registry.audit import AuditEntry
from modelmora.domain.registry.difference import Difference
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.pages import Page
from modelmora.domain.registry.provenance import TrainingMetadata
from modelmora.ports import StoredObject, Upload
from modelmora.usecases.models import ModelStatus

T = TypeVar("T")

_AT_REST: dict[str, Any] = {"state": "unloaded", "bytes": 0, "workers": []}
_HOW = ("provider", "group", "default", "device", "precision", "engine")


def moment(at: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def page(found: Page[T], show: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """`data` and `next_cursor`, null at the end."""
    return {"data": [show(item) for item in found.items], "next_cursor": found.next_cursor}


def model(entry: Model, status: ModelStatus | None = None) -> dict[str, Any]:
    """A model, and how its current version stands; `status` None: no worker knows of that version yet."""
    shown: dict[str, Any] = {
        "id": entry.id,
        "name": entry.name,
        "type": entry.type,
        "description": entry.description,
        "tags": list(entry.tags),
        "owner": entry.owner,
        "current": entry.current,
        "created_at": moment(entry.created_at),
        "changed_at": moment(entry.changed_at),
        "row": entry.row,
    }
    if status is not None:
        return shown | render.model(status)
    return shown if entry.current is None else {**shown, "version": entry.current, **_AT_REST}


def model_at(entry: Model, version: ModelVersion) -> dict[str, Any]:
    """A model, and how a version of it would be run that no worker knows of."""
    how = {name: getattr(version.running, name) for name in _HOW}
    return {**model(entry), "version": version.version, "source": version.source, **how, **_AT_REST}


def version(entry: ModelVersion) -> dict[str, Any]:
    """A version; `state` is that of its life."""
    return {
        "id": entry.id,
        "model": entry.model,
        "version": entry.version,
        "type": entry.type,
        "state": entry.state,
        "source": entry.source,
        "artifact": None if entry.artifact is None else _artifact(entry.artifact),
        "running": asdict(entry.running),
        "inputs": [asdict(spec) for spec in entry.inputs],
        "outputs": [asdict(spec) for spec in entry.outputs],
        "labels": list(entry.labels),
        "training": _training(entry.training),
        "baseline": asdict(entry.baseline),
        "validated_at": None if entry.validated_at is None else moment(entry.validated_at),
        "failure": entry.failure,
        "created_at": moment(entry.created_at),
        "changed_at": moment(entry.changed_at),
        "row": entry.row,
    }


def lineage(center: Node, found: Lineage) -> dict[str, Any]:
    """The versions it was made of and those made of it, the nearest first, and the data sets of all of them."""
    ancestors, descendants = found.ancestors(center), found.descendants(center)
    around = sorted({parent for parents in found.made_of.values() for parent in parents})
    return {
        "node": asdict(center),
        "ancestors": [asdict(node) for node in ancestors if node.kind == "version"],
        "descendants": [asdict(node) for node in descendants if node.kind == "version"],
        "datasets": [asdict(node) for node in around if node.kind == "dataset"],
        "edges": [
            {"child": asdict(child), "parent": asdict(parent)}
            for child, parents in found.made_of.items()
            for parent in parents
        ],
    }


def differences(before: str, after: str, found: Sequence[Difference]) -> dict[str, Any]:
    """`kind` tells what is not there at all from null."""
    rows = [{"field": d.path, "kind": d.kind, "before": d.before, "after": d.after} for d in found]
    return {"before": before, "after": after, "differences": rows}


def stored(value: StoredObject) -> dict[str, Any]:
    return {"sha256": value.sha256, "bytes": value.bytes}


def upload(value: Upload) -> dict[str, Any]:
    return {"name": value.name, "url": value.url, "expires_at": moment(value.expires_at)}


def audited(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit, with the digest that chains it to the one before."""
    change = entry.change
    return {
        "seq": entry.seq,
        "at": moment(entry.at),
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "request_id": change.request_id,
        "reason": change.reason,
        "before": change.before,
        "after": change.after,
        "digest": entry.digest,
    }


def _artifact(value: Artifact) -> dict[str, Any]:
    files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in value.files]
    return {"sha256": value.sha256, "bytes": value.bytes, "files": files}


def _training(value: TrainingMetadata) -> dict[str, Any]:
    at = value.trained_at
    return {**asdict(value), "trained_at": None if at is None else moment(at)}
