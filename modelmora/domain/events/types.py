"""The registry of event types: which there are, in which versions, and how an older one is read as the newest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from modelmora.errors import UnsupportedMedia

Data: TypeAlias = Mapping[str, Any]
Upcast: TypeAlias = Callable[[Data], Data]

IMAGE_REGISTERED = "com.modelmora.image.registered"
IMAGE_REMOVED = "com.modelmora.image.removed"
EMBEDDING_GENERATED = "com.modelmora.embedding.generated"
EMBEDDING_FAILED = "com.modelmora.embedding.failed"
MODEL_LOADED = "com.modelmora.model.loaded"
MODEL_UNLOADED = "com.modelmora.model.unloaded"

_TYPE = re.compile(r"(.+)\.v(\d{1,4})")


class EventTypes:
    """Types by name, each with the version that is written now, and steps from older versions to the next."""

    def __init__(self, current: Mapping[str, int], upcasts: Mapping[tuple[str, int], Upcast] | None = None) -> None:
        self._current = dict(current)
        self._upcasts = dict(upcasts or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Of all types, without their versions."""
        return tuple(self._current)

    def written(self, name: str) -> str:
        """The full type of an event that is written now."""
        return f"{name}.v{self._current[name]}"

    def read(self, type_: str, data: Data) -> tuple[str, Data]:
        """The name of the type, and the data as its newest version has them; raises UnsupportedMedia."""
        match = _TYPE.fullmatch(type_)
        name, version = (match[1], int(match[2])) if match else (type_, 0)
        if match is None or name not in self._current:
            known = ", ".join(sorted(map(self.written, self._current)))
            raise UnsupportedMedia("an event of an unknown type", field="type", found=type_[:120], expected=known)
        while version != self._current[name]:
            if (name, version) not in self._upcasts:
                said = "an event of a version that is not known here"
                raise UnsupportedMedia(said, field="type", found=type_[:120], expected=", ".join(self.versions(name)))
            data, version = self._upcasts[name, version](data), version + 1
        return name, data

    def versions(self, name: str) -> tuple[str, ...]:
        """The full types that are read, the oldest first."""
        older = [version for known, version in self._upcasts if known == name]
        return tuple(f"{name}.v{version}" for version in sorted({*older, self._current[name]}))


def _draft(data: Data) -> Data:
    """Version 0, the draft that bucket notifications were turned into: `id`, `url`, `labels`, and no `seq`."""
    renamed = {"id": "image_id", "url": "object", "labels": "tags", "name": "filename"}
    return {"seq": 1, **{renamed.get(name, name): value for name, value in data.items()}}


TYPES = EventTypes(
    {
        IMAGE_REGISTERED: 1,
        IMAGE_REMOVED: 1,
        EMBEDDING_GENERATED: 1,
        EMBEDDING_FAILED: 1,
        MODEL_LOADED: 1,
        MODEL_UNLOADED: 1,
    },
    {(IMAGE_REGISTERED, 0): _draft},
)
"""What this release writes and reads."""
