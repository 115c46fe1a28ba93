"""What a search may be narrowed to, read from JSON: unknown fields and impossible values are refused by their name."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from modelmora.domain.pictures.picture import Facts, Value
from modelmora.domain.pictures.search import Filter, Range
from modelmora.domain.registry.texts import check_text
from modelmora.errors import LimitExceeded, ModelMoraError, ValidationFailed

brief = reprlib.repr
"""A value as errors show it, however large it is."""

FIELDS = ("tags", "metadata", "ids", "created_after", "created_before")
TAG_FIELDS = ("any", "all", "none")
RANGE_FIELDS = ("gt", "gte", "lt", "lte")
MOST_VALUES, MOST_IDS, ID_CHARS = 64, 1_000, 64


def read_filter(value: object, *, field: str = "filter") -> Filter:
    """The filter; None is an empty one. Tags in a list are alternatives. Raises ValidationFailed, LimitExceeded."""
    if value is None:
        return Filter()
    asked = _object(value, FIELDS, field)
    tags = _tag_lists(asked.get("tags"), f"{field}.tags")
    return Filter(
        any_tags=tags.get("any", ()),
        all_tags=tags.get("all", ()),
        no_tags=tags.get("none", ()),
        metadata=_metadata(asked.get("metadata"), f"{field}.metadata"),
        ids=read_ids(asked["ids"], field=f"{field}.ids") if asked.get("ids") is not None else (),
        created_after=read_moment(asked.get("created_after"), field=f"{field}.created_after"),
        created_before=read_moment(asked.get("created_before"), field=f"{field}.created_before"),
    )


def read_ids(value: object, *, field: str) -> tuple[str, ...]:
    """Ids of pictures, each once; raises ValidationFailed, LimitExceeded."""
    ids = _some(value, field, most=MOST_IDS)
    return tuple(dict.fromkeys(read_id(one, field=field) for one in ids))


def read_id(value: object, *, field: str) -> str:
    """Raises ValidationFailed for what is no id of a picture."""
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS:
        found = brief(value)
        raise ValidationFailed("not the id of a picture", field=field, found=found, expected=f"1 to {ID_CHARS} letters")
    check_text(value, field=field)
    return value


def read_key(value: object, *, field: str) -> str:
    """A key of metadata; raises ValidationFailed."""
    key, _ = _fact(value, True, field)
    return key


def read_moment(value: object, *, field: str) -> datetime | None:
    """A moment with its time zone; raises ValidationFailed."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.utcoffset() is not None:
            return moment
    except ValueError:
        pass
    found, expected = brief(value), "RFC 3339, such as 2026-01-31T12:00:00Z"
    raise ValidationFailed("not a moment with its time zone", field=field, found=found, expected=expected)


def _tag_lists(value: object, field: str) -> Mapping[str, tuple[str, ...]]:
    if value is None:
        return {}
    if isinstance(value, list | tuple):
        return {"any": _tags(value, field)}
    lists = _object(value, TAG_FIELDS, field, also=" or a list")
    return {name: _tags(each, f"{field}.{name}") for name, each in lists.items() if each is not None}


def _tags(value: object, field: str) -> tuple[str, ...]:
    some = _some(value, field, most=MOST_VALUES)
    with _told_of(field):
        return Facts.checked(tags=some).tags


def _metadata(value: object, field: str) -> Mapping[str, Value | tuple[Value, ...] | Range]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not 0 < len(value) <= MOST_VALUES:
        expected = f"an object of 1 to {MOST_VALUES} keys"
        raise ValidationFailed("not conditions on metadata", field=field, found=brief(value), expected=expected)
    return {read_key(key, field=field): _wanted(key, each, field) for key, each in value.items()}


def _wanted(key: str, value: object, field: str) -> Value | tuple[Value, ...] | Range:
    """What one key is to be: a value, one of several, or between two numbers."""
    place = f"{field}.{key}"
    if isinstance(value, Mapping):
        ends = _object(value, RANGE_FIELDS, place)
        if not ends:
            raise ValidationFailed("a range has no end", field=place, found="{}", expected=", ".join(RANGE_FIELDS))
        return Range(**{name: _number(end, f"{place}.{name}") for name, end in ends.items()})
    if isinstance(value, list | tuple):
        return tuple(_fact(key, each, field)[1] for each in _some(value, place, most=MOST_VALUES))
    return _fact(key, value, field)[1]


def _fact(key: object, value: object, field: str) -> tuple[str, Value]:
    """A key and its value as a picture may have them: what it may not have, it is not asked for."""
    with _told_of(field):
        told = Facts.checked(metadata={key: value})  # type: ignore[dict-item] # it looks at keys itself
    return next(iter(told.metadata.items()))


@contextmanager
def _told_of(field: str) -> Iterator[None]:
    """Errors about facts as errors about what is asked of them."""
    try:
        yield
    except ModelMoraError as error:
        key = (error.field or "").partition(".")[2]
        error.field = f"{field}.{key}" if key else field
        raise


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValidationFailed("not a number", field=field, found=brief(value), expected="a finite number")
    return value


def _some(value: object, field: str, *, most: int) -> Sequence[object]:
    """A list with something in it: of nothing nothing would be found."""
    if not isinstance(value, list | tuple) or not value:
        raise ValidationFailed("not a list of values", field=field, found=brief(value), expected="a list, not empty")
    if len(value) > most:
        found = str(len(value))
        raise LimitExceeded(f"{found} values", field=field, found=found, expected=f"at most {most}")
    return value


def _object(value: object, allowed: Sequence[str], field: str, *, also: str = "") -> Mapping[str, object]:
    expected = f"an object of {', '.join(allowed)}{also}"
    if not isinstance(value, Mapping):
        raise ValidationFailed("not an object", field=field, found=brief(value), expected=expected)
    unknown = sorted(str(name) for name in value if name not in allowed)
    if unknown:
        named = ", ".join(unknown)[:80]
        raise ValidationFailed(f"{field} has no field {named}", field=field, found=named, expected=expected)
    return value
