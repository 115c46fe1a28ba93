"""Errors as RFC 9457 problem+json; foreign exceptions of the web framework are mapped here, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.errors import STATUSES, retry_after_s
from api.oip.said import said
from modelmora.errors import (
    Fault,
    InternalError,
    InvalidInput,
    LimitExceeded,
    ModelMoraError,
    UnsupportedMedia,
    ValidationFailed,
    unexpected,
)

MEDIA_TYPE = "application/problem+json"
_OPENAI_TYPES = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}


def problem(error: ModelMoraError, request_id: str, status: int) -> dict[str, Any]:
    """The body: `type, title, status, detail, code, request_id`, and `errors` where items or fields are named."""
    body: dict[str, Any] = {
        "type": f"urn:modelmora:error:{error.code}",
        "title": STATUSES[error.code].title,
        "status": status,
        "detail": render.sayable(error.detail),
        "code": error.code,
        "request_id": request_id,
    }
    faults = error.faults or ((error.as_fault(),) if error.field or error.found or error.expected else ())
    return body | {"errors": [render.fault(f) for f in faults]} if faults else body


def response(
    error: ModelMoraError, request: Request, status: int | None = None, *, headers: Mapping[str, str] | None = None
) -> Response:
    """The error as an answer; in `/v1/embeddings` with the `error` object that openai clients show.

    `status` overrides the table's, for routes and methods that do not exist.
    """
    status = status or STATUSES[error.code].http
    request.scope.setdefault("state", {})["code"] = error.code
    body = problem(error, request_id_of(request), status)
    if request.url.path == "/v1/embeddings":
        body["error"] = {
            "message": error.detail,
            "type": _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "code": error.code,
            "param": error.field,
        }
    elif f"{request.url.path}/".startswith("/v2/"):
        body["error"] = said(error)  # all that clients of the Open Inference Protocol show
    after = retry_after_s(error)
    again = {"retry-after": str(math.ceil(after))} if after is not None else {}
    return Response(render.to_json(body), status, {**(headers or {}), **again}, MEDIA_TYPE)


def request_id_of(request: Request) -> str:
    """The id the front middleware gave."""
    return str(request.scope.get("state", {}).get("request_id", ""))


async def on_error(request: Request, error: Exception) -> Response:
    """The one exception handler."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return response(translate(error), request, error.status_code, headers=error.headers)
    return response(translate(error), request)


async def on_disconnect(request: Request, error: Exception) -> None:
    """The caller left while sending: nothing is sent."""
    request.scope.setdefault("state", {})["code"] = "cancelled"


def translate(error: Exception) -> ModelMoraError:
    """Any exception of a route as one of ours, most specific first."""
    match error:
        case ModelMoraError():
            return error
        case RequestValidationError():
            return _from_fastapi(error)
        case HTTPException():
            return _from_starlette(error)
    return unexpected()


def _from_fastapi(error: RequestValidationError) -> ModelMoraError:
    faults = [
        Fault(
            "validation",
            str(e["msg"]),
            field=".".join(str(part) for part in e["loc"][1:]),
            found=repr(e.get("input"))[:80],
        )
        for e in error.errors()
    ]
    return ValidationFailed("the request does not have the shape this route takes", faults=faults)


def _from_starlette(error: HTTPException) -> ModelMoraError:
    detail = str(error.detail)
    if detail.startswith(("Too many", "Part exceeded", "Field exceeded")):
        return LimitExceeded(detail)
    match error.status_code:
        case 404 | 405:
            return InvalidInput(f"{detail}: no such route or method; GET /docs lists them")
        case 413:
            return LimitExceeded(detail)
        case 415:
            return UnsupportedMedia(detail)
        case status if status < 500:
            return InvalidInput(detail)
    return InternalError(detail)
