"""A safetensors file as tensors that stay on disk until they are read, and that can be let go again while they live."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH = 8


class SafetensorsDamaged(ValueError):
    """The file is not what the format says, or holds numbers of a kind that no network here has."""


def map_safetensors(file: Path) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """The tensors by name, and a function that gives back the memory of what was read of them so far.

    The library's own reader keeps every page it has touched in memory until the last tensor is gone: while the
    weights are copied into a network they would be there twice. Raises SafetensorsDamaged, OSError.
    """
    _check(file)
    with file.open("rb") as opened:
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants memory that may be written
    end = _LENGTH + int.from_bytes(mapping[:_LENGTH], "little")
    entries: dict[str, Any] = json.loads(mapping[_LENGTH:end])
    entries.pop("__metadata__", None)
    return {name: _tensor(mapping, end, name, entry) for name, entry in entries.items()}, _forgetter(mapping)


def _check(file: Path) -> None:
    """Lets the library look at the header: lengths, names, shapes, offsets."""
    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, ValueError) as cause:
        raise SafetensorsDamaged(str(cause)) from cause


def _tensor(mapping: mmap.mmap, begin: int, name: str, entry: dict[str, Any]) -> Tensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise SafetensorsDamaged(f"{name} holds {entry['dtype']}, not one of {', '.join(_DTYPES)}")
    shape = tuple(entry["shape"])
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    offset = begin + int(entry["data_offsets"][0])
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset).reshape(shape)


def _forgetter(mapping: mmap.mmap) -> Callable[[], None]:
    """Nothing was written, so the pages are the file's own: dropped here, they are read again on demand."""

    def forget() -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    return forget
