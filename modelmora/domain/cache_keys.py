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
_HEADER_BYTES = _HEADER.size


def recipe_of(model: ModelSpec, task: Task, description: Description, *, process: str) -> str:
    """All of a key but the item: the version, how it is preprocessed, in which numbers and how many it is computed.

    A declared engine and precision are what a runner computes in, or it refuses to load. What is `auto` is chosen by
    the runner from one load to the next, and it does not say with a vector what it chose: such vectors are under the
    name of this `process` too, so that none is found again after a restart or by another API worker. Within a process
    those of the forms that passed the gate of parity (cosine 0.999 to fp32) are under one key.
    """
    how = description.image if task == "embed_image" else description.text
    preprocess = hashlib.sha256(json.dumps(asdict(how) if how else None, sort_keys=True).encode()).hexdigest()[:16]
    numbers = f"{model.engine}-{model.precision}"
    if "auto" in (model.engine, model.precision):
        numbers = f"{numbers}-{process}"
    return f"{model.key}:{preprocess}:{numbers}:{description.dimension}:{task}"


def written(embedded: Embedded) -> bytes:
    """Header and little-endian float32."""
    vector = embedded.vector
    return _HEADER.pack(_MAGIC, _VERSION, _FLOAT32, 0, vector.dimension, embedded.tokens) + vector.data


def read(value: bytes, *, dimension: int) -> Embedded | None:
    """None for what was not written so, or is of another dimension."""
    if len(value) != _HEADER_BYTES + 4 * dimension:
        return None
    magic, version, format_, _, told, tokens = _HEADER.unpack_from(value)
    if (magic, version, format_, told) != (_MAGIC, _VERSION, _FLOAT32, dimension):
        return None
    return Embedded(Vector(value[_HEADER_BYTES:]), tokens=tokens)
