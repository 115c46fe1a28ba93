"""What a table of pictures can hold: anything else is refused by itself, before it fails its neighbours."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from modelmora.domain.pictures.picture import Facts, Picture, checked_collection
from modelmora.domain.registry.texts import check_text
from modelmora.errors import ValidationFailed
from modelmora.ports import Registration

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 2**62
_ORIGIN_BYTES = 2_000
"""PostgreSQL has no room in an index for more."""


def refuse_unkeepable(one: Registration, *, tenant: str) -> None:
    """Raises ValidationFailed, LimitExceeded; what comes by an event is anybody's."""
    picture = one.picture
    if picture.tenant != tenant:
        raise ValidationFailed(
            "pictures of another tenant are not kept here", field="tenant", found=picture.tenant[:80]
        )
    _refuse_name(picture.id, _ID, field="image_id")
    _refuse_name(picture.sha256, _SHA256, field="sha256")
    checked_collection(picture.collection)
    for name in ("object", "content_type"):
        check_text(getattr(picture, name), field=name)
    _refuse_facts(picture.facts)
    _refuse_numbers(picture)
    for name in ("created_at", "changed_at", "expires_at"):
        _refuse_moment(getattr(picture, name), field=name)
    if one.origin is not None:
        _refuse_origin(one.origin)


def _refuse_name(text: str, pattern: re.Pattern[str], *, field: str) -> None:
    if not pattern.fullmatch(text):
        raise ValidationFailed(f"not {field}", field=field, found=repr(text)[:80], expected=pattern.pattern)


def _refuse_facts(facts: Facts) -> None:
    check_text(facts.filename, field="filename")
    if facts.tags or facts.metadata:
        Facts.checked(tags=facts.tags, metadata=facts.metadata)


def _refuse_numbers(picture: Picture) -> None:
    for name, least in (("seq", 1), ("bytes", 0), ("width", 0), ("height", 0)):
        value = getattr(picture, name)
        if not least <= value < _LARGEST:
            expected = f"{least} or more, below 2^62"
            raise ValidationFailed(f"{name} is out of range", field=name, found=str(value)[:80], expected=expected)


def _refuse_moment(moment: datetime | None, *, field: str) -> None:
    try:
        if moment is not None:
            moment.astimezone(UTC)
    except OverflowError:
        found = moment.isoformat() if moment else ""
        raise ValidationFailed(f"{field} is beyond all calendars", field=field, found=found) from None


def _refuse_origin(origin: tuple[str, str]) -> None:
    for text in origin:
        check_text(text, field="source and id")
    size = sum(len(text.encode()) for text in origin)
    if size > _ORIGIN_BYTES:
        expected = f"at most {_ORIGIN_BYTES} bytes together"
        said = "the source and id of the event are too long"
        raise ValidationFailed(said, field="source and id", found=f"{size} bytes", expected=expected)
