"""What crosses from an API worker to a model and back: one array, or several by name with their options."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modelmora.domain.inference import Timings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parcel:
    """Arrays by name, and what the task is told besides (JSON-ready).

    `rows` is how much of a batch it is: a table of eight rows takes the place of eight. Texts and files are arrays
    of dtype object that hold bytes.
    """

    tensors: Mapping[str, NDArray[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1


Payload: TypeAlias = "NDArray[np.generic] | Parcel"
"""One item as a model takes it: pixels, token ids or raw bytes; or a parcel."""

Body: TypeAlias = bytes | Parcel
"""One item's result: a row of float32 as little-endian bytes, or a parcel."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One item's result and what it cost."""

    body: Body
    timings: Timings


def rows_of(payload: Payload) -> int:
    """How much of a batch an item is."""
    return payload.rows if isinstance(payload, Parcel) else 1


def digest(payload: Payload) -> bytes:
    """Of the content: equal inputs have equal digests."""
    seen = hashlib.blake2b(digest_size=16)
    if isinstance(payload, Parcel):
        for name in sorted(payload.tensors):
            seen.update(name.encode())
            seen.update(_bytes(payload.tensors[name]))
        seen.update(repr(sorted(payload.options.items())).encode())
    else:
        seen.update(payload.tobytes())
    return seen.digest()


def _bytes(array: NDArray[Any]) -> bytes:
    return b"\0".join(array.ravel().tolist()) if array.dtype == np.object_ else array.tobytes()
