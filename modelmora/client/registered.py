"""What is registered, as the server tells it; what a newer server tells besides is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from modelmora.client.control import mapping, moment
from modelmora.domain.registry.artifact import Artifact, ArtifactFile
from modelmora.domain.registry.lineage import Node
from modelmora.errors import InternalError, ValidationFailed

Stage = Literal["left_out", "hashing", "uploading", "registering", "validating", "downloading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """A version and what is known of it; `state` is where it is in its life.

    `artifact` is None for one that is declared in the server's file: its files are not in the object store. `running`,
    `training` and `baseline` are JSON as the server has it, `inputs` and `outputs` one object a tensor. `row` counts
    the entry's changes.
    """

    id: str
    model: str
    version: str
    type: str
    state: str
    source: str = ""
    artifact: Artifact | None = None
    running: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    labels: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    baseline: Mapping[str, Any] = field(default_factory=dict)
    validated_at: datetime | None = None
    failure: str = ""
    created_at: datetime | None = None
    changed_at: datetime | None = None
    row: int = 0

    @property
    def key(self) -> str:
        """`name@version`."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageInfo:
    """The versions that it was made of and those made of it, the nearest first, and the data sets of all of them.

    An edge is (child, parent).
    """

    node: Node
    ancestors: tuple[Node, ...]
    descendants: tuple[Node, ...]
    datasets: tuple[Node, ...]
    edges: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """`field` with dots, numbers in brackets; what is not there at all is told apart from null by the kind."""

    field: str
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditInfo:
    """Who did what to what; `before` and `after` are the entry as JSON, None where there was none."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str = ""
    reason: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerdict:
    """Whether the chain of the audit holds over its `entries`; `broken_at` is the first place where it does not."""

    intact: bool
    entries: int
    broken_at: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed because nothing referred to it."""

    removed: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a registration or a download is: `done_bytes` of `total_bytes` of the stage, at `file`.

    `left_out` (a file or folder that no model is made of), `hashing`, `uploading` (of what the server does not have),
    `registering`, `validating`; `downloading`.
    """

    stage: Stage
    done_bytes: int = 0
    total_bytes: int = 0
    file: str = ""


def version_info(body: Any) -> VersionInfo:
    """Raises InternalError where what makes it a version is missing."""
    told = mapping(body)
    with _promised("a version"):
        known: dict[str, Any] = {name: str(told[name]) for name in ("id", "model", "version", "type", "state")}
        known |= {name: str(told.get(name) or "") for name in ("source", "failure")}
        known |= {name: told.get(name) or {} for name in ("running", "training", "baseline")}
        known |= {name: tuple(told.get(name) or ()) for name in ("inputs", "outputs", "labels")}
        known |= {name: moment(told.get(name)) for name in ("validated_at", "created_at", "changed_at")}
        return VersionInfo(**known, artifact=_artifact(told.get("artifact")), row=int(told.get("row") or 0))


def lineage_info(body: Any) -> LineageInfo:
    told = mapping(body)
    with _promised("a lineage"):
        return LineageInfo(
            node=_node(told["node"]),
            ancestors=tuple(map(_node, told["ancestors"])),
            descendants=tuple(map(_node, told["descendants"])),
            datasets=tuple(map(_node, told["datasets"])),
            edges=tuple((_node(edge["child"]), _node(edge["parent"])) for edge in told["edges"]),
        )


def differences(body: Any) -> list[FieldDifference]:
    told = mapping(body)
    with _promised("a difference"):
        return [
            FieldDifference(field=str(one["field"]), kind=one["kind"], before=one.get("before"), after=one.get("after"))
            for one in told["differences"]
        ]


def audit_info(body: Any) -> AuditInfo:
    told = mapping(body)
    with _promised("an entry of the audit"):
        known: dict[str, Any] = {name: str(told[name]) for name in ("actor", "action", "subject")}
        known |= {name: str(told.get(name) or "") for name in ("request_id", "reason", "digest")}
        known |= {name: told.get(name) for name in ("before", "after")}
        return AuditInfo(seq=int(told["seq"]), at=datetime.fromisoformat(told["at"]), **known)


def audit_verdict(body: Any) -> AuditVerdict:
    told = mapping(body)
    with _promised("a verdict"):
        broken = told.get("broken") or {}
        return AuditVerdict(
            intact=bool(told["intact"]),
            entries=int(told["entries"]),
            broken_at=broken.get("seq"),
            why=str(broken.get("why") or ""),
        )


def collected(body: Any) -> Collected:
    told = mapping(body)
    with _promised("what it removed"):
        return Collected(removed=int(told["removed"]), bytes=int(told["bytes"]))


def _artifact(told: Any) -> Artifact | None:
    """Raises ValidationFailed for a path that leaves the artifact, or a digest that is not that of its files."""
    if told is None:
        return None
    files = tuple(
        ArtifactFile(path=str(one["path"]), bytes=int(one["bytes"]), sha256=str(one["sha256"])) for one in told["files"]
    )
    sha256 = str(told["sha256"])
    return Artifact(uri=f"object:{sha256}", sha256=sha256, files=tuple(sorted(files, key=lambda file: file.path)))


def _node(told: Any) -> Node:
    return Node(kind=told["kind"], name=str(told["name"]))


@contextmanager
def _promised(what: str) -> Iterator[None]:
    """What cannot be read is the server's defect: raises InternalError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, ValidationFailed) as cause:
        raise InternalError(f"the server sent {what} of another shape than promised: {cause!r}") from cause
