"""What an embedding is remembered under, and how it is written down."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict

from modelmora.domain.description import Description
from modelmora.domain.inference import Embedded, Vector
from modelmora.domain.models import ModelSpec, Task

_HEADER = struct.Struct("<4sBBHII")
"""Magic, version, number format, zero, dimension, tokens: 16 bytes."""
_MAGIC, _VERSION, _FLOAT32 = b"MMEV", 1, 1


def recipe_of(model: ModelSpec, task: Task, description: Description) -> str:
    """All of a key but the item: the version, how it is preprocessed, in which numbers and how many it is computed.

    `auto` is resolved for the time of a process by what was measured on this machine; its vectors pass the gate of
    parity with those of every other form, so they share a key of their own. A row's engine and precision are never
    mixed with another's.
    """
    how = description.image if task == "embed_image" else description.text
    preprocess = hashlib.sha256(json.dumps(asdict(how) if how else None, sort_keys=True).encode()).hexdigest()[:16]
    return f"{model.key}:{preprocess}:{model.engine}-{model.precision}:{description.dimension}:{task}"


def written(embedded: Embedded) -> bytes:
    """Header and little-endian float32."""
    vector = embedded.vector
    return _HEADER.pack(_MAGIC, _VERSION, _FLOAT32, 0, vector.dimension, embedded.tokens) + vector.data


def read(value: bytes, *, dimension: int) -> Embedded | None:
    """None for what was not written so, or is of another dimension."""
    if len(value) != _HEADER.size + 4 * dimension:
        return None
    magic, version, format_, _, told, tokens = _HEADER.unpack_from(value)
    if (magic, version, format_, told) != (_MAGIC, _VERSION, _FLOAT32, dimension):
        return None
    return Embedded(Vector(value[_HEADER.size :]), tokens=tokens)
