"""The registry's routes on the OpenAPI page: what they answer, and what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from api.http.operations import PROBLEM, operation
from api.http.registry_bodies import Body, schema_of
from api.http.registry_conditions import IF_MATCH
from api.http.registry_once import KEY
from api.http.routes import PERMISSION
from api.permissions import Permission

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer"}
MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}
ANY: dict[str, Any] = {"type": "object"}
SHA256: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
KEYED: dict[str, Any] = {
    "name": KEY,
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "printable ASCII; the same request with the same key is done once and answered the same for a day",
}

CONDITION, KEY_HEADER = (IF_MATCH,), (KEYED,)


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def some(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def maybe(of: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [of, {"type": "null"}]}


def paged(of: dict[str, Any]) -> dict[str, Any]:
    return obj(data=some(of), next_cursor=maybe(TEXT))


MODEL = obj(
    **dict.fromkeys(("id", "name", "type", "description", "owner"), TEXT),
    tags=some(TEXT),
    current={**maybe(TEXT), "description": "the version that the bare name stands for; the fields after `row` are its"},
    created_at=MOMENT,
    changed_at=MOMENT,
    row={**COUNT, "description": "counts the changes; the ETag"},
    **dict.fromkeys(("version", "provider", "source", "group", "device", "precision", "engine"), TEXT),
    default={"type": "boolean"},
    state={"enum": ["unloaded", "loading", "loaded", "unloading", "failed"]},
    bytes=COUNT,
    workers=some(TEXT),
    error=TEXT,
)
_FILE = obj(path=TEXT, bytes=COUNT, sha256=SHA256)
VERSION = obj(
    **dict.fromkeys(("id", "model", "version", "type", "source", "failure"), TEXT),
    state={**TEXT, "description": "of its life: registered, validated, approved, deployed ..."},
    artifact=maybe(obj(sha256=SHA256, bytes=COUNT, files=some(_FILE))),
    running=ANY,
    inputs=some(ANY),
    outputs=some(ANY),
    labels=some(TEXT),
    training=ANY,
    baseline=ANY,
    validated_at=maybe(MOMENT),
    created_at=MOMENT,
    changed_at=MOMENT,
    row={**COUNT, "description": "counts the changes; the ETag"},
)
_NODE = obj(kind={"enum": ["version", "dataset"]}, name=TEXT)
LINEAGE = obj(
    node=_NODE, ancestors=some(_NODE), descendants=some(_NODE), datasets=some(_NODE),
    edges=some(obj(child=_NODE, parent=_NODE)),
)  # fmt: skip
DIFFERENCES = obj(
    before=TEXT,
    after=TEXT,
    differences=some(obj(field=TEXT, kind={"enum": ["added", "removed", "changed"]}, before={}, after={})),
)
STORED = obj(sha256=SHA256, bytes=COUNT)
UPLOAD = obj(name=TEXT, url=TEXT, expires_at=MOMENT)
COLLECTED = obj(removed=COUNT, bytes=COUNT)
ENTRY = obj(
    seq=COUNT,
    at=MOMENT,
    **dict.fromkeys(("actor", "action", "subject", "request_id", "reason", "digest"), TEXT),
    before=maybe(ANY),
    after=maybe(ANY),
)
VALIDATING: dict[str, Any] = {
    **obj(stage=TEXT, version=VERSION, error=ANY),
    "description": "a line a step; the last one has the stage `report` and the version, or is an `error`",
}
VERIFIED = obj(intact={"type": "boolean"}, entries=COUNT, broken=obj(seq=COUNT, why=TEXT))


def route(
    permission: Permission,
    answer: dict[str, Any] | None,
    *,
    status: int = 200,
    body: type[Body] | None = None,
    body_required: bool = True,
    headers: Sequence[dict[str, Any]] = (),
    media: str = "application/json",
) -> dict[str, Any]:
    """What FastAPI's decorators take: status, permission and the page's part; `answer` None: there is no content."""
    content = {} if answer is None else {"content": {media: {"schema": answer}}}
    extra: dict[str, Any] = {PERMISSION: permission}
    if headers:
        extra["parameters"] = list(headers)
    if body is not None:
        extra |= schema_of(body, required=body_required)
    return {
        "status_code": status,
        "response_class": Response,
        "responses": {status: {"description": "OK", **content}, "4XX": PROBLEM, "5XX": PROBLEM},
        "openapi_extra": extra,
    }


def _at(described: dict[str, Any], *names: str) -> dict[str, Any]:
    path = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
    return {**described, "parameters": path}


_BYTES = {"schema": {"type": "string", "format": "binary"}}
_STORED = {"description": "OK", "content": {"application/json": {"schema": STORED}}}
STORE = _at(
    operation("Send a file of any size under its sha256; 200 where it was there already", "artifacts", STORED), "sha256"
)
STORE["responses"]["201"] = _STORED
STORE["requestBody"] = {"required": True, "content": {"application/octet-stream": _BYTES}}
FIND = _at(operation("Whether a file is there, and its size", "artifacts", {}), "sha256")
DOWNLOAD = _at(
    operation(
        "A file of a version; one that is damaged never ends as if it were whole",
        "versions",
        _BYTES["schema"],
        media="application/octet-stream",
    ),
    *("ref", "version", "path"),
)
