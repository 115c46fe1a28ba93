"""Where the next page of a search begins: an opaque text that is good for the same question only."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from modelmora.domain.pictures.search import MOST_OFFSET
from modelmora.errors import ValidationFailed

LONGEST = 256


def fingerprint(question: Mapping[str, object]) -> str:
    """What tells one question from another; its values are as JSON has them, bytes by their digest."""
    text = json.dumps(question, sort_keys=True, default=_digest)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def make_cursor(offset: int, question: str) -> str | None:
    """None where pages end: MOST_OFFSET is as far as they go."""
    if offset > MOST_OFFSET:
        return None
    return base64.urlsafe_b64encode(json.dumps([offset, question]).encode()).decode()


def read_cursor(cursor: str | None, question: str) -> int:
    """The offset; raises ValidationFailed for what is no cursor, or another question's."""
    if cursor is None:
        return 0
    try:
        if len(cursor) > LONGEST:
            raise ValueError("longer than any")
        offset, asked = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if type(offset) is not int or not 0 <= offset <= MOST_OFFSET or asked != question:
            raise ValueError("another question's")
    except (ValueError, TypeError, RecursionError) as cause:
        said, expected = "not a cursor of this question", "next_cursor of the page before, with the same question"
        raise ValidationFailed(said, field="cursor", found=cursor[:80], expected=expected) from cause
    return offset


def _digest(value: object) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return repr(value)
