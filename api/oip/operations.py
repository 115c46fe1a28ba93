"""The OpenAPI descriptions of `/v2`."""

from __future__ import annotations

from typing import Any

from api.http.operations import PARAMETERS, operation

_TAG = "open inference protocol"
_TEXT: dict[str, Any] = {"type": "string"}
_NAME = {"name": "model", "in": "path", "required": True, "schema": _TEXT, "description": "`name` or `name@version`"}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": _TEXT}
_DATATYPE = {"type": "string", "examples": ["BYTES", "FP32", "INT64"]}
_SHAPE = {"type": "array", "items": {"type": "integer"}}
_ANY = {"type": "object", "description": "those that are not known are ignored"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_DECLARED = _list(_object(name=_TEXT, datatype=_DATATYPE, shape=_SHAPE))
_TENSOR = _object(
    name=_TEXT,
    datatype=_DATATYPE,
    shape=_SHAPE,
    parameters={**_ANY, "description": "`binary_data_size`: the data stands after the JSON object, in so many bytes"},
    data={"type": "array", "items": {}, "description": "row-major, flat or nested"},
)
_ASKED = _object(
    id=_TEXT,
    parameters={
        **_ANY,
        "description": "`binary_data_output`, `timeout` in microseconds, `truncate`; others are ignored",
    },
    inputs=_list(_TENSOR),
    outputs=_list(_object(name=_TEXT, parameters={**_ANY, "description": "`binary_data`"})),
)
_ANSWER = _object(model_name=_TEXT, model_version=_TEXT, id=_TEXT, outputs=_list(_TENSOR))
_CONFIGURED = _object(name=_TEXT, data_type=_TEXT, dims=_SHAPE)
_BINARY = {
    "description": "the JSON object, in as many bytes as `Inference-Header-Content-Length` says, then the tensors; "
    "0 bytes: only the tensor of the only input",
    "schema": {"type": "string", "format": "binary"},
}


def _of_model(described: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**described, "parameters": [_NAME, *described.get("parameters", ())], **more}


def versioned(described: dict[str, Any]) -> dict[str, Any]:
    """The same of a named version."""
    return {**described, "parameters": [_VERSION, *described["parameters"]]}


LIVE = operation("Whether the server is live", _TAG, _object(live={"type": "boolean"}))
READY = operation("Whether the server is ready; 503 when not", _TAG, _object(ready={"type": "boolean"}))
SERVER = operation("The server's name, version and extensions", _TAG, _object(name=_TEXT, version=_TEXT))
MODEL = _of_model(
    operation(
        "The tensors that a model takes and gives",
        _TAG,
        _object(name=_TEXT, versions=_list(_TEXT), platform=_TEXT, inputs=_DECLARED, outputs=_DECLARED),
    )
)
MODEL_READY = _of_model(
    operation("Whether the model is in memory; 503 when not", _TAG, _object(name=_TEXT, ready={"type": "boolean"}))
)
MODEL_CONFIG = _of_model(
    operation(
        "The model's configuration, the part of Triton's that clients use",
        _TAG,
        _object(
            name=_TEXT,
            platform=_TEXT,
            max_batch_size={"type": "integer"},
            input=_list(_CONFIGURED),
            output=_list(_CONFIGURED),
        ),
    )
)
INFER = _of_model(
    operation(
        "Tensors through a tensor model, or `image` or `text` (BYTES) through an embedding model; all or nothing",
        _TAG,
        _ANSWER,
        {"application/json": {"schema": _ASKED}, "application/octet-stream": _BINARY},
    )
)
INDEX = operation(
    "The declared models and their state",
    _TAG,
    _list(_object(name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
    {"application/json": {"schema": _object(ready={"type": "boolean", "default": False})}},
)
_CHANGED = _object(model=_TEXT, version=_TEXT, state=_TEXT)
LOAD = _of_model(
    operation("Load a model on every worker of its group", _TAG, _CHANGED), parameters=[_NAME, *PARAMETERS]
)
UNLOAD = _of_model(operation("Take a model out of memory", _TAG, _CHANGED), parameters=[_NAME, *PARAMETERS])
