"""Kept pictures on the OpenAPI page: what their routes answer, and what they ask for."""

from __future__ import annotations

from typing import Any, get_args

from api.http.operations import FAULT, operation
from api.http.registry_operations import ANY, COUNT, MOMENT, SHA256, TEXT, maybe, obj, some
from modelmora.domain.pictures.picture import PictureState
from modelmora.domain.pictures.spaces import IndexState
from modelmora.domain.pictures.way import WayState

STATE = {"enum": list(get_args(PictureState))}
_PICTURE: dict[str, Any] = {
    "id": TEXT,
    "state": STATE,
    "sha256": SHA256,
    "filename": TEXT,
    "content_type": TEXT,
    "bytes": COUNT,
    "width": COUNT,
    "height": COUNT,
    "thumbnail": {**TEXT, "description": "its path"},
}
_ERROR = obj(code=TEXT, detail=TEXT)
_WAY = obj(
    space={**TEXT, "description": "`name@version` of the model"},
    state={"enum": list(get_args(WayState))},
    attempts=COUNT,
    next_attempt_at=MOMENT,
    stage=TEXT,
    error=_ERROR,
    changed_at=MOMENT,
)
RECORD = obj(
    **_PICTURE,
    collection=TEXT,
    tags=some(TEXT),
    metadata=ANY,
    created_at=MOMENT,
    changed_at=MOMENT,
    expires_at=maybe(MOMENT),
    ways=some(_WAY),
)
INDEX = obj(
    model=TEXT,
    version=TEXT,
    collection=TEXT,
    state={"enum": list(get_args(IndexState))},
    dimension=COUNT,
    total={**COUNT, "description": "pictures of the collection"},
    done={**COUNT, "description": "pictures in the index"},
    failed={**COUNT, "description": "pictures that were given up for it"},
    agreement={**maybe({"type": "number"}), "description": "overlap of its ten nearest with those of the one before"},
    why=TEXT,
    created_at=MOMENT,
    changed_at=MOMENT,
)
REMOVED = obj(removed=COUNT)

_TAGS = {"description": "a list in JSON, or several fields, or commas between them", **some(TEXT)}
_METADATA = {
    "description": "a JSON object for all, or a list of one for each picture; texts, numbers, true and false",
    "oneOf": [ANY, some(ANY)],
}
_TERMS: dict[str, Any] = {
    "tags": _TAGS,
    "metadata": _METADATA,
    "collection": {**TEXT, "default": "default"},
    "ttl_s": {**COUNT, "description": "seconds after which they are removed"},
    "wait": {"type": "boolean", "default": True, "description": "false: answered before they are indexed"},
}
_ROW = {
    **obj(index=COUNT, **_PICTURE, duplicate={"type": "boolean"}, spaces=some(TEXT), error=FAULT),
    "description": "a picture that is kept, or why it is not",
    "required": ["index"],
}
_OBJECT = {**TEXT, "description": "where it lies: `s3://bucket/key` that the server may read"}
UPLOAD = operation(
    "Pictures to keep: stored, indexed, found by the next search; what is late is indexed after the answer",
    "pictures",
    obj(data=some(_ROW)),
    {
        "multipart/form-data": {
            "schema": {**obj(files=some({"type": "string", "format": "binary"}), **_TERMS), "required": ["files"]}
        },
        "application/json": {"schema": {**obj(objects=some(_OBJECT), **_TERMS), "required": ["objects"]}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
)
_OK = UPLOAD["responses"]["200"]
UPLOAD["responses"] = {
    "201": {**_OK, "description": "One picture, which is found from now on"},
    "200": {**_OK, "description": "One that was there already; or several, each with its own outcome"},
    "202": {**_OK, "description": "Kept; of some that are not indexed yet the events take care"},
    **{status: told for status, told in UPLOAD["responses"].items() if status != "200"},
}
