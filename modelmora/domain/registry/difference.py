"""What differs between two versions, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`path` with dots, numbers in brackets; what is not there at all is told apart from null."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Of two JSON objects, in the order of the paths; lists are compared place by place."""
    return sorted(_compared("", before, after), key=lambda one: one.path)


def _compared(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _places(path, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _places(path, dict(enumerate(before)), dict(enumerate(after)))
    elif type(before) is not type(after) or before != after:
        yield Difference(path=path, kind="changed", before=before, after=after)


def _places(path: str, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys((*before, *after)):
        inner = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        if key not in after:
            yield Difference(path=inner, kind="removed", before=before[key])
        elif key not in before:
            yield Difference(path=inner, kind="added", after=after[key])
        else:
            yield from _compared(inner, before[key], after[key])
