"""What may stand in an entry: texts, numbers and JSON that every database and every wire can carry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from modelmora.errors import ValidationFailed

LONGEST = 500
LONGEST_KEY, LONGEST_TOLD = 500, 200
"""Of a key of what somebody sends, and of a place in it as errors name it."""
DEEPEST, MOST_VALUES, MOST_CHARACTERS = 32, 100_000, 2**20
"""Of JSON that somebody sends: levels, values, and characters of all texts and keys."""
_LARGEST = 2**63


def check_text(text: str, *, field: str) -> None:
    """Raises ValidationFailed for a NUL or half a surrogate pair: databases and UTF-8 cannot hold them."""
    if text.isascii() and "\0" not in text:
        return
    wrong = next((one for one in text if one == "\0" or "\ud800" <= one <= "\udfff"), None)
    if wrong is not None:
        found = f"U+{ord(wrong):04X}"
        raise ValidationFailed(f"{field} holds {found}", field=field, found=found, expected="text without U+0000")


def check_length(text: str, *, field: str, least: int = 0, most: int = LONGEST) -> None:
    """Raises ValidationFailed for a text that is too short or too long, or that cannot be kept."""
    check_text(text, field=field)
    if not least <= len(text) <= most:
        expected = f"{least} to {most} characters"
        raise ValidationFailed(f"{field} has {len(text)} characters", field=field, found=text[:80], expected=expected)


def check_number(value: float, *, field: str, least: float) -> None:
    """Raises ValidationFailed for what is not finite, or too small."""
    if not math.isfinite(value) or value < least:
        expected = "a finite number" if least == -math.inf else f"a finite number from {least:g}"
        raise ValidationFailed(f"{field} is {value}", field=field, found=str(value), expected=expected)


def check_json(value: Mapping[str, Any], *, field: str) -> None:
    """Raises ValidationFailed, naming the place, for what JSON has no form for, and for more than an entry may hold."""
    characters = 0
    for count, (path, one) in enumerate(_values(field, value, 0)):
        characters += _checked(path, one)
        if count > MOST_VALUES or characters > MOST_CHARACTERS:
            expected = f"at most {MOST_VALUES} values of {MOST_CHARACTERS} characters together"
            raise ValidationFailed(f"{field} is too large", field=field, expected=expected)


def readable(text: str, *, most: int) -> str:
    """What somebody else's program said, made fit to be kept: cut, and without what `check_text` refuses."""
    return "".join("\ufffd" if one == "\0" or "\ud800" <= one <= "\udfff" else one for one in text[:most])


def _values(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The value and all within, keys among them; raises ValidationFailed for what is too deep."""
    if depth > DEEPEST:
        raise ValidationFailed(f"{path[:80]} is too deep", field=path.partition(".")[0], expected=f"{DEEPEST} levels")
    if isinstance(value, Mapping | list | tuple):
        yield path, None  # it counts, though there be nothing in it
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield path, _key(path, key)
            yield from _values(f"{path}.{key}"[:LONGEST_TOLD], inner, depth + 1)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _values(f"{path}[{index}]"[:LONGEST_TOLD], inner, depth + 1)
    else:
        yield path, value


def _key(path: str, key: object) -> str:
    """Raises ValidationFailed for what is no text, or longer than any name."""
    if not isinstance(key, str):
        _no_json(path, key)
    check_length(key, field=path[:LONGEST_TOLD], most=LONGEST_KEY)
    return key


def _checked(path: str, value: Any) -> int:
    """How many characters it counts for; raises ValidationFailed."""
    match value:
        case str():
            check_text(value, field=path[:200])
            return len(value)
        case None | bool():
            return 0
        case int() if -_LARGEST <= value < 2 * _LARGEST:
            return 0
        case float() if math.isfinite(value):
            return 0
        case _:
            _no_json(path, value)


def _no_json(path: str, value: Any) -> NoReturn:
    found = str(value)[:80] if isinstance(value, float) else type(value).__name__
    expected = "texts, finite numbers, true, false, null, lists and objects of them"
    raise ValidationFailed(f"{path[:200]} cannot be kept as JSON", field=path[:200], found=found, expected=expected)
