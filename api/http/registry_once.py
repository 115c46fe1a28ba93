"""What makes an entry is done once for each `Idempotency-Key`, and answered the same every time."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from modelmora.ports import Answer
from modelmora.usecases.registry import Idempotency

KEY = "idempotency-key"
REPLAYED = {"idempotent-replay": "true"}


def answer(value: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Answer:
    """What is said, in the form in which it can be kept and said again."""
    return Answer(status=status, body=render.to_json(value).decode(), headers=headers)


async def once(request: Request, idempotency: Idempotency, make: Callable[[str | None], Awaitable[Answer]]) -> Response:
    """Without a key it is done; a request that fails leaves its key free.

    `make` is given the id of what is to be made, which follows from the key and the request: whoever comes after a
    process that was killed when it had made it, and had not said so yet, makes the same.

    Raises ValidationFailed for what is no key or came with another request, Conflict while that is being answered.
    """
    key = request.headers.get(KEY)
    if key is None:
        return _response(await make(None))
    digest = hashlib.sha256(await request.body()).hexdigest()
    route = f"{request.method} {request.url.path}"
    async with idempotency.claim(key, route=route, digest=digest) as claim:
        if claim.answered is not None:
            return _response(claim.answered, REPLAYED)
        made = await make(_id(f"{key}\n{route}\n{digest}"))
        claim.keep(made)
    return _response(made)


def _id(text: str) -> str:
    """A UUIDv8 (RFC 9562, 5.8) of a digest."""
    digest = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))


def _response(made: Answer, more: Mapping[str, str] | None = None) -> Response:
    return Response(made.body, made.status, {**made.headers, **(more or {})}, "application/json")
