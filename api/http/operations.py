"""The OpenAPI descriptions of the hot routes."""

from __future__ import annotations

from typing import Any

_VECTOR = {
    "description": "float32, L2-normalised: a list, or base64 of the little-endian bytes",
    "oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
}
_FAULT = {
    "type": "object",
    "required": ["code", "detail"],
    "properties": {k: {"type": "string"} for k in ("code", "detail", "field", "found", "expected")},
}
_PROBLEM = {
    "description": "RFC 9457 problem; `code` is stable",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    **{k: {"type": "string"} for k in ("type", "title", "detail", "code", "request_id")},
                    "status": {"type": "integer"},
                    "errors": {"type": "array", "items": _FAULT},
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
                "properties": {"index": {"type": "integer"}, "embedding": _VECTOR, "error": _FAULT},
            },
        },
    },
}
_MODEL = {"type": "string", "description": "`name` or `name@version`; the default embedding model when absent"}
_ENCODING = {"type": "string", "enum": ["float", "base64"], "default": "float"}
_PARAMETERS = [
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


def _operation(summary: str, tag: str, answer: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": answer}}},
            "4XX": _PROBLEM,
            "5XX": _PROBLEM,
        },
    }
    if body is not None:
        operation |= {"parameters": _PARAMETERS, "requestBody": {"required": True, "content": body}}
    return operation


EMBED_IMAGE = _operation(
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
                    "model": _MODEL,
                    "encoding_format": _ENCODING,
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
)
EMBED_TEXT = _operation(
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
                    "model": _MODEL,
                    "truncate": {"type": "boolean", "default": False},
                    "encoding_format": _ENCODING,
                },
            }
        }
    },
)
OPENAI_EMBEDDINGS = _operation(
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
                        "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
                        "description": "Texts; a data URI is a picture",
                    },
                    "model": _MODEL,
                    "modality": {"type": "string", "enum": ["text", "image"], "default": "text"},
                    "encoding_format": _ENCODING,
                    "dimensions": {"type": "integer"},
                    "truncate": {"type": "boolean", "default": False},
                    "partial": {"type": "boolean", "default": False},
                },
            }
        }
    },
)
LIST_OPENAI_MODELS = _operation(
    "The servable models, OpenAI style, the default first",
    "openai",
    {"type": "object", "properties": {"object": {"const": "list"}, "data": {"type": "array"}}},
)
