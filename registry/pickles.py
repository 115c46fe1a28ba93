"""What a pickle would import and call, read without running any of it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch.Size",
        "torch.storage.UntypedStorage",
        "torch.serialization._get_layout",
        "torch.device",
    }
)
"""What the weights of a network are made of, as torch.save writes them."""

_DTYPES = frozenset({"float32", "float64", "float16", "bfloat16", "bool", "complex64", "complex128"}) | frozenset(
    {"int8", "int16", "int32", "int64", "uint8"}
)
MOST_BYTES = 256 * 2**20
"""A pickle names weights and does not hold them: one that is larger is none of torch's."""

MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def suspicious(path: Path) -> list[str]:
    """The names, `module.name`, that a file of torch's would import beyond what weights are made of, in order.

    Raises ValueError for a file that is none.
    """
    return list(dict.fromkeys(name for stream in _pickles(path) for name in stream if not _is_weights(name)))


def _pickles(path: Path) -> Iterator[list[str]]:
    """Of torch's archive (a zip with `data.pkl`) or of its older format (pickles one after the other)."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                inner = [name for name in archive.namelist() if name.endswith(".pkl")]
                if not inner:
                    raise ValueError("an archive without a pickle")
                for name in inner:
                    if archive.getinfo(name).file_size > MOST_BYTES:
                        raise ValueError(f"{name} has {archive.getinfo(name).file_size} bytes")
                    yield _imports(io.BytesIO(archive.read(name)))
            return
        file.seek(0)
        if file.read(2) not in MAGIC:
            raise ValueError("no archive of torch's, and no pickle")
        file.seek(0)
        while (
            file.peek(1)[:1] == b"\x80"
        ):  # a number, a version, facts of the system, the weights, keys of the storages
            yield _imports(file)


def _imports(file: BinaryIO) -> list[str]:
    """Every global that is named, until the pickle's end.

    Names on the stack are newer than what torch writes, and may be put together while it runs: they are never weights.
    """
    found, texts = list[str](), ["?", "?"]
    for code, argument, _ in pickletools.genops(file):
        match code.name:
            case "GLOBAL" | "INST":
                found.append(str(argument).replace(" ", "."))
            case "STACK_GLOBAL":
                found.append(f"{'.'.join(texts[-2:])} (by its name on the stack)")
            case "EXT1" | "EXT2" | "EXT4":
                found.append(f"extension {argument}")
            case name if "UNICODE" in name or "STRING" in name:
                texts.append(str(argument))
    return found


def _is_weights(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return (
        name in _HARMLESS
        or (module in ("torch", "torch.cuda") and last.endswith("Storage"))
        or (module == "torch" and last in _DTYPES)
    )
