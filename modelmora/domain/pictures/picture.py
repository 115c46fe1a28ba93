"""A kept picture: its record, and what its owner says of it."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from modelmora.domain.registry.texts import check_text
from modelmora.errors import LimitExceeded, ValidationFailed

Value: TypeAlias = str | int | float | bool
PictureState = Literal["registered", "embedding", "indexed", "retrying", "failed", "deleted"]
"""What the API shows; the ways of a picture have more (`modelmora.domain.pictures.way`)."""

COLLECTION_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
MOST_TAGS, TAG_CHARS = 64, 128
MOST_METADATA, KEY_CHARS, METADATA_BYTES = 64, 64, 16 * 2**10
FILENAME_CHARS = 255
_COLLECTION = re.compile(COLLECTION_PATTERN)
KEY_PATTERN = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
"""Of a key of metadata."""

_KEY = re.compile(KEY_PATTERN)
_LARGEST = 2**53
"""Whole numbers beyond it are not the same number in every reader of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is said of a picture by whoever brings it; `checked` makes one of what came over a wire."""

    filename: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, *, filename: str = "", tags: Sequence[object] = (), metadata: Mapping[str, object] | None = None
    ) -> Facts:
        """Raises ValidationFailed, LimitExceeded; a file name loses its folders and what cannot be printed."""
        return cls(filename=plain_name(filename), tags=_tags(tags), metadata=_metadata(metadata or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The record of a picture. `object` is where its bytes lie (`s3://bucket/key` or `file:///path`), `seq` grows with
    every change of the record and orders its events; `bytes` are the file's size. `deleted_at` makes it a tombstone,
    which keeps what comes late from bringing the picture back."""

    id: str
    collection: str = "default"
    sha256: str
    object: str
    content_type: str
    bytes: int
    width: int = 0
    height: int = 0
    facts: Facts = Facts()
    seq: int = 1
    created_at: datetime
    changed_at: datetime
    expires_at: datetime | None = None
    deleted_at: datetime | None = None
    tenant: str = "default"


def checked_collection(name: str) -> str:
    """The name; raises ValidationFailed for one that is none."""
    if not _COLLECTION.fullmatch(name):
        said = "not the name of a collection"
        raise ValidationFailed(said, field="collection", found=name[:80], expected=COLLECTION_PATTERN)
    return name


def plain_name(filename: str) -> str:
    """The last part of a path, of either kind of slash, without control and format characters, shortened to
    FILENAME_CHARS with its suffix kept. It is shown, never opened."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", filename))[-1]
    shown = "".join(c for c in last if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")).strip()
    if shown in (".", ".."):
        return ""
    if len(shown) <= FILENAME_CHARS:
        return shown
    stem, dot, suffix = shown.rpartition(".")
    kept = dot + suffix if stem and len(suffix) <= 16 else ""
    return shown[: FILENAME_CHARS - len(kept)] + kept


def _tags(tags: Sequence[object]) -> tuple[str, ...]:
    if len(tags) > MOST_TAGS:
        raise LimitExceeded(f"{len(tags)} tags", field="tags", found=str(len(tags)), expected=f"at most {MOST_TAGS}")
    return tuple(dict.fromkeys(_tag(tag) for tag in tags))


def _tag(tag: object) -> str:
    if not isinstance(tag, str) or not tag.strip() or len(tag) > TAG_CHARS:
        raise ValidationFailed("not a tag", field="tags", found=repr(tag)[:80], expected=f"1 to {TAG_CHARS} characters")
    check_text(tag, field="tags")
    return tag.strip()


def _metadata(metadata: Mapping[str, object]) -> Mapping[str, Value]:
    if len(metadata) > MOST_METADATA:
        found, most = str(len(metadata)), f"at most {MOST_METADATA}"
        raise LimitExceeded(f"{found} keys of metadata", field="metadata", found=found, expected=most)
    checked = {_key(key): _value(key, value) for key, value in metadata.items()}
    size = len(json.dumps(checked))
    if size > METADATA_BYTES:
        found, most = f"{size} bytes", f"at most {METADATA_BYTES} bytes as JSON"
        raise LimitExceeded("too much metadata", field="metadata", found=found, expected=most)
    return checked


def _key(key: object) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        said = "not a key of metadata"
        raise ValidationFailed(said, field="metadata", found=repr(key)[:80], expected=_KEY.pattern)
    return key


def _value(key: object, value: object) -> Value:
    match value:
        case bool():
            return value
        case str():
            check_text(value, field=f"metadata.{key}")
            return value
        case int() if -_LARGEST <= value <= _LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
    expected = "a text, a finite number, true or false"
    raise ValidationFailed(
        "not a value of metadata", field=f"metadata.{key}", found=repr(value)[:80], expected=expected
    )
