"""What can be wrong with ModelRegistry.yaml, each fault with its line."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelmora.errors import Fault, ValidationFailed
from registry.lines import Document, Place
from registry.schema import SETTINGS, SWITCH, Declared, DeclaredRegistry


class RegistryError(ValidationFailed):
    """The registry cannot be used; `faults` tells everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        head = (
            "the model registry has one fault" if len(faults) == 1 else f"the model registry has {len(faults)} faults"
        )
        super().__init__("\n  ".join([f"{head}:", *(fault.detail for fault in faults)]), faults=faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A value at a place of the document that is not what may stand there."""

    place: Place
    found: str
    takes: str
    near: str | None = None

    def as_fault(self, file: str, document: Document) -> Fault:
        """This as one line: file, line, field, what was found, what is taken, the nearest."""
        field = dotted(self.place)
        hint = f"; did you mean {self.near!r}?" if self.near else ""
        detail = f"{file}:{document.line(self.place)}: {field}: found {self.found}, takes {self.takes}{hint}"
        return Fault(ValidationFailed.code, detail, field=field, found=self.found, expected=self.takes)


def nearest(word: object, known: Collection[str]) -> str | None:
    """The known word that `word` was perhaps meant to be."""
    return next(iter(difflib.get_close_matches(str(word), known, n=1)), None)


def dotted(place: Place) -> str:
    """`models[0].batching.queue`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the file"


def shown(value: object) -> str:
    """A value as somebody who wrote it would recognise it."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case _:
            return repr(value)[:100]


def of_shape(error: ValidationError, document: Document) -> Iterator[Wrong]:
    """The faults that the declared shape finds."""
    for each in error.errors():
        yield _of_shape(each, document)


def _of_shape(error: ErrorDetails, document: Document) -> Wrong:
    where: Place = tuple(part for part in error["loc"] if part not in (SWITCH, SETTINGS))
    if error["type"] == "missing":
        return Wrong(place=where, found="nothing", takes=_field(where).takes)
    # What follows the place names the branch of a union, or says that a key is meant.
    place = next(where[:n] for n in range(len(where), -1, -1) if where[:n] in document.lines or n == 0)
    if error["type"] == "extra_forbidden":
        keys = _field(place[:-1]).keys
        takes = f"only the keys {', '.join(keys)}"
        return Wrong(place=place, found="a key that means nothing here", takes=takes, near=nearest(place[-1], keys))
    if error["loc"][-1:] == ("[key]",):
        return Wrong(
            place=place, found=f"the name {place[-1]!r}", takes="a name of a-z 0-9 - that starts with a letter"
        )
    field = _field(place)
    value = _at(document.value, place)
    return Wrong(place=place, found=shown(value), takes=field.takes, near=nearest(value, field.words))


@dataclass(frozen=True, slots=True)
class _Field:
    """What the shape says of one place."""

    takes: str
    keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def _field(place: Place) -> _Field:
    annotation: object = DeclaredRegistry
    takes = "a mapping with version, groups and models"
    for part in place:
        model = _model(annotation)
        if model is None:
            break
        if typing.get_origin(annotation) in (dict, list):
            annotation, takes = model, f"a mapping of {', '.join(model.model_fields)}"
        elif part in model.model_fields:
            field = model.model_fields[str(part)]
            annotation, takes = field.annotation, field.description or ""
    model = None if typing.get_origin(annotation) in (dict, list) else _model(annotation)
    words = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    return _Field(
        takes, tuple(model.model_fields) if model else (), tuple(word for word in words if isinstance(word, str))
    )


def _model(annotation: object) -> type[Declared] | None:
    """The shape of the mapping, or of the items, that an annotation names."""
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, Declared)
    ):
        return annotation
    return next((model for each in typing.get_args(annotation) if (model := _model(each))), None)


def _at(value: object, place: Place) -> object:
    for part in place:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
    return value
