"""What Qdrant's client raises, for a folder, REST and gRPC alike, as errors of ours."""

from __future__ import annotations

import re

from modelmora.errors import DependencyUnavailable

MISSING, REFUSED = 404, 400
_CODES = {"NOT_FOUND": MISSING, "INVALID_ARGUMENT": REFUSED}
_NO_COLLECTION = re.compile(r"collection .*(not found|doesn.t exist)|not found: collection", re.IGNORECASE | re.DOTALL)


def status_of(cause: Exception) -> int | None:
    """MISSING where there is no such index, REFUSED where a question does not fit it, else None.

    A 404 that speaks of no collection is another server's, which is no reason to find nothing.
    """
    status = _status(cause)
    if status == MISSING:
        return MISSING if _NO_COLLECTION.search(said_by(cause)) else None
    return status if status == REFUSED else None


def said_by(cause: Exception) -> str:
    """The reason in one line."""
    content, details = getattr(cause, "content", None), getattr(cause, "details", None)
    if isinstance(content, bytes):
        text = f"{getattr(cause, 'status_code', '')} {content.decode(errors='replace')}"
    else:
        text = str(details()) if callable(details) else str(cause)
    return " ".join(text.split())[:300] or type(cause).__name__


def unavailable(where: str, cause: Exception) -> DependencyUnavailable:
    """The store at `where` is away, or out of order."""
    said = f"the vector store {where} does not answer: {said_by(cause)}; MODELMORA_VECTORS_URL names it"
    return DependencyUnavailable(said, retry_after_s=1.0)


def _status(cause: Exception) -> int | None:
    status, code = getattr(cause, "status_code", None), getattr(cause, "code", None)
    if isinstance(status, int):
        return status
    if callable(code):
        return _CODES.get(getattr(code(), "name", ""))
    if isinstance(cause, ValueError):  # a folder has no statuses
        return MISSING if _NO_COLLECTION.search(str(cause)) else REFUSED
    return None
