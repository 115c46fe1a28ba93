"""The OpenAPI descriptions of the hot routes."""

from __future__ import annotations

from typing import Any

VECTOR = {
    "description": "float32, L2-normalised: a list, or base64 of the little-endian bytes",
    "oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
}
FAULT = {
    "type": "object",
    "required": ["code", "detail"],
    "properties": {k: {"type": "string"} for k in ("code", "detail", "field", "found", "expected")},
}
PROBLEM = {
    "description": "RFC 9457 problem; `code` is stable",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    **{k: {"type": "string"} for k in ("type", "title", "detail", "code", "request_id")},
                    "status": {"type": "integer"},
                    "errors": {"type": "array", "items": FAULT},
                },
            }
        }
    },
}
_ITEMS = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "dimension": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index"],
                "properties": {"index": {"type": "integer"}, "embedding": VECTOR, "error": FAULT},
            },
        },
    },
}
NDJSON = "application/x-ndjson"
MODEL = {"type": "string", "description": "`name` or `name@version`; the default embedding model when absent"}
ENCODING = {"type": "string", "enum": ["float", "base64"], "default": "float"}
PARAMETERS = [
    {
        "name": "x-modelmora-timeout-ms",
        "in": "header",
        "schema": {"type": "integer", "default": 60000},
        "description": "The caller's deadline in milliseconds",
    },
    {
        "name": "x-modelmora-priority",
        "in": "header",
        "schema": {"type": "string", "enum": ["interactive", "bulk"], "default": "interactive"},
    },
]


def operation(
    summary: str,
    tag: str,
    answer: dict[str, Any],
    body: dict[str, Any] | None = None,
    *,
    media: str = "application/json",
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": answer}}},
            "4XX": PROBLEM,
            "5XX": PROBLEM,
        },
    }
    if body is not None:
        operation |= {"parameters": PARAMETERS, "requestBody": {"required": True, "content": body}}
    return operation


EMBED_IMAGE = operation(
    "Embed pictures: one outcome per file, same order",
    "inference",
    _ITEMS,
    {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "model": MODEL,
                    "encoding_format": ENCODING,
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
)
EMBED_TEXT = operation(
    "Embed texts: one outcome per text, same order",
    "inference",
    _ITEMS,
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["texts"],
                "properties": {
                    "texts": {"type": "array", "items": {"type": "string", "maxLength": 2000}},
                    "model": MODEL,
                    "truncate": {"type": "boolean", "default": False},
                    "encoding_format": ENCODING,
                },
            }
        }
    },
)
TIMING = {"type": "string", "description": "of this item's stages, as in the Server-Timing header of other answers"}
_BATCH_LINE = {
    "description": "a line of JSON for each file as it completes; the last line is `done`, or `error` of the whole",
    "oneOf": [
        {
            "type": "object",
            "required": ["index", "filename"],
            "properties": {
                "index": {"type": "integer"},
                **{k: {"type": "string"} for k in ("filename", "model", "version")},
                "embedding": VECTOR,
                "server_timing": TIMING,
                "error": FAULT,
            },
        },
        {
            "type": "object",
            "required": ["done", "items", "failed"],
            "properties": {"done": {"const": True}, "items": {"type": "integer"}, "failed": {"type": "integer"}},
        },
        {"type": "object", "required": ["error"], "properties": {"error": FAULT}},
    ],
}
EMBED_BATCH = operation(
    "Embed any number of pictures in one request: lines of JSON, each as it completes, while the body still arrives",
    "inference",
    _BATCH_LINE,
    {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "description": "The fields come before the files, or stand in the query",
                "properties": {
                    "model": MODEL,
                    "encoding_format": ENCODING,
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
            }
        }
    },
    media=NDJSON,
)
EMBED_STREAM = operation(
    "Embed one picture or text and be told how far it is: lines of JSON, the last one with the vector",
    "inference",
    {
        "type": "object",
        "description": "the last line has the stage `done` and the embedding, or is an `error`",
        "properties": {
            "stage": {"enum": ["queued", "preprocessing", "loading", "inference", "done"]},
            "percent": {"type": "number", "minimum": 0, "maximum": 100},
            "done": {"type": "integer", "description": "of `total`: bytes loaded, layers computed, items preprocessed"},
            "total": {"type": "integer", "description": "0: not known"},
            "embedding": VECTOR,
            "server_timing": TIMING,
            "dimension": {"type": "integer"},
            "model": {"type": "string"},
            "version": {"type": "string"},
            "error": FAULT,
        },
    },
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["text"],
                "properties": {
                    "text": {"type": "string", "maxLength": 2000},
                    "model": MODEL,
                    "truncate": {"type": "boolean", "default": False},
                    "encoding_format": ENCODING,
                },
            }
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {"type": "string", "format": "binary"},
                    "model": MODEL,
                    "encoding_format": ENCODING,
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
    media=NDJSON,
)
_OPENAI_INPUT = [
    {
        "type": "string",
        "description": "A text, or with modality `image` a picture (data URI, base64, URL); a data URI is one untold",
    },
    {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    {"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}},
    {
        "type": "object",
        "required": ["image_url"],
        "properties": {
            "image_url": {
                "oneOf": [
                    {"type": "string"},
                    {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}},
                ]
            }
        },
    },
]
OPENAI_EMBEDDINGS = operation(
    "OpenAI-compatible embeddings of texts and pictures",
    "openai",
    {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"type": "object"}},
            "model": {"type": "string"},
            "usage": {"type": "object"},
        },
    },
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input"],
                "properties": {
                    "input": {
                        "oneOf": [*_OPENAI_INPUT, {"type": "array", "items": {"oneOf": _OPENAI_INPUT}}],
                        "description": "Texts and pictures, in any order",
                    },
                    "model": MODEL,
                    "modality": {"type": "string", "enum": ["text", "image"], "default": "text"},
                    "encoding_format": ENCODING,
                    "dimensions": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "Shorter vectors, of models that allow it; 422 names what a model has",
                    },
                    "truncate": {"type": "boolean", "default": False},
                    "partial": {"type": "boolean", "default": False},
                },
            }
        }
    },
)
LIST_OPENAI_MODELS = operation(
    "The servable models, OpenAI style, the default first",
    "openai",
    {"type": "object", "properties": {"object": {"const": "list"}, "data": {"type": "array"}}},
)
