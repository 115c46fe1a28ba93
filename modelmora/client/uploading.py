"""Pictures to be kept, read into what either wire sends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from modelmora.client.chunks import chunks
from modelmora.client.control import as_json
from modelmora.client.pictures import read_each
from modelmora.domain.inference import Image
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ValidationFailed

if TYPE_CHECKING:
    from modelmora.client.pictures import Picture

    Named: TypeAlias = Picture | tuple[str, Picture]

NAMELESS = "picture"
"""What a picture is called that has no name of its own."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture that lies in an object store which the server may read: `s3://bucket/key`."""

    uri: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """One picture as it is sent."""

    content: bytes | Stored
    filename: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What goes for all pictures of an upload; what is None is the server's to say."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[Mapping[str, Any], ...] = ()
    """Of each picture, in their order; otherwise `metadata` is of all."""
    collection: str | None = None
    ttl_s: int | None = None
    wait: bool = True

    def of(self, index: int) -> Mapping[str, Any]:
        """The metadata of one picture."""
        return self.each[index] if self.each else self.metadata


def told_metadata(
    given: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, *, count: int
) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    """That of all, and that of each; raises ValidationFailed for what is neither, or not of each."""
    if given is None or isinstance(given, Mapping):
        return _object(given or {}), ()
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != count:
        found = f"{len(given)} of them" if isinstance(given, list | tuple) else type(given).__name__
        expected = f"a mapping for all, or a list of {count}, one a picture"
        raise ValidationFailed("metadata is not of all pictures", field="metadata", found=found, expected=expected)
    return {}, tuple(map(_object, given))


async def parcels(files: Sequence[Named | Stored], terms: Terms) -> AsyncIterator[list[Outcome[Parcel]]]:
    """As many at once as a request should have, read when they are asked for; what cannot be read rides along."""
    begun = 0
    async for contents in chunks(read_each([_picture(file) for file in files])):
        yield [_parcel(files[index], content, terms.of(index)) for index, content in enumerate(contents, start=begun)]
        begun += len(contents)


def name_of(file: Named | Stored) -> str:
    """What the picture is called: as told, or as the file is that it lies in."""
    match file:
        case (str() as name, _):
            return _shown(name) or NAMELESS
        case Stored(uri):
            return _shown(uri)
        case str() | os.PathLike():
            return _shown(os.fspath(file)) or NAMELESS
    told = getattr(file, "name", None) or getattr(file, "filename", None)  # of an open file, of a PIL image
    return (_shown(told) if isinstance(told, str) else "") or NAMELESS


def _shown(path: str) -> str:
    """Its last part, without what cannot be printed: half characters are no letters on any wire."""
    return "".join(letter for letter in re.split(r"[/\\]", path)[-1] if letter.isprintable())


def _picture(file: Any) -> Any:
    match file:
        case (str(), picture):
            return picture
        case Stored():
            return b""
    return file


def _parcel(file: Any, content: Outcome[Any], metadata: Mapping[str, Any]) -> Outcome[Parcel]:
    match content:
        case Ok(_) if isinstance(file, Stored):
            return Ok(Parcel(file, name_of(file), metadata))
        case Ok(Image(data)):
            return Ok(Parcel(data, name_of(file), metadata))
        case Failed():
            return content
    return Failed(ValidationFailed("this takes pictures", field="files", found="a text", expected="a picture"))


def _object(given: Any) -> Mapping[str, Any]:
    """As JSON has it; raises ValidationFailed."""
    told = json.loads(as_json(given))
    if not isinstance(told, dict):
        found = type(given).__name__
        raise ValidationFailed("metadata is no mapping", field="metadata", found=found, expected="a mapping")
    return told
