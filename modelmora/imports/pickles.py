"""What a pickle would import and call, read without running any of it."""

from __future__ import annotations

import pickletools
import zipfile
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO

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
MOST_BYTES = 64 * 2**20
"""A pickle names weights and does not hold them: one that is larger is none of torch's."""

OLD_PARTS, MOST_INNER, MOST_FOUND, LONGEST_LINE = 5, 16, 20, 4_096

MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def suspicious(path: Path) -> list[str]:
    """The names, `module.name`, that a file of torch's would import beyond what weights are made of, in order.

    Raises ValueError for a file that is none.
    """
    return list(dict.fromkeys(islice((name for stream in _pickles(path) for name in stream), MOST_FOUND)))


def _pickles(path: Path) -> Iterator[list[str]]:
    """Of torch's archive (a zip with `data.pkl`) or of its older format (pickles one after the other).

    What it is is told by how it begins, as torch tells it: a pickle with an archive behind it is a pickle.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == b"PK\x03\x04":
            yield from _of_archive(file)
        elif start[:2] in MAGIC:
            yield from _of_older_file(file)
        else:
            raise ValueError("no archive of torch's, and no pickle")


def _of_archive(file: BinaryIO) -> Iterator[list[str]]:
    try:
        with zipfile.ZipFile(file) as archive:
            inner = [name for name in archive.namelist() if name.endswith(".pkl")]
            if not inner or len(inner) > MOST_INNER:
                raise ValueError(f"an archive with {len(inner)} pickles")
            for name in inner:
                with archive.open(name) as opened:
                    yield _imports(_Bounded(opened))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as cause:
        raise ValueError(f"an archive that cannot be read: {cause}") from cause


def _of_older_file(file: BinaryIO) -> Iterator[list[str]]:
    """A number, a version, facts of the system, the weights, and the keys of their storages, which then follow."""
    bounded = _Bounded(file)
    for _ in range(OLD_PARTS):
        yield _imports(bounded)
        if not file.peek(1):  # type: ignore[attr-defined] # it was opened with a buffer
            return


class _Bounded:
    """As much of a file as a pickle needs; raises ValueError beyond."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(size) if size <= self._left else None)

    def readline(self) -> bytes:
        return self._counted(self._file.readline(LONGEST_LINE))

    def _counted(self, content: bytes | None) -> bytes:
        self._left -= len(content or b"")
        if content is None or self._left < 0:
            raise ValueError(f"a pickle of more than {MOST_BYTES} bytes")
        return content


def _imports(file: _Bounded) -> list[str]:
    """Every global that is named, until the pickle's end; of very many the first.

    Names on the stack are newer than what torch writes, and may be put together while it runs: they are never weights.
    """
    found, texts = list[str](), deque(["?", "?"], maxlen=2)
    for code, argument, _ in pickletools.genops(file):  # type: ignore[arg-type] # it reads as a file does
        match code.name:
            case "GLOBAL" | "INST":
                name = str(argument).replace(" ", ".")
            case "STACK_GLOBAL":
                name = f"{'.'.join(texts)} (by its name on the stack)"
            case "EXT1" | "EXT2" | "EXT4":
                name = f"extension {argument}"
            case other:
                if "UNICODE" in other or "STRING" in other:
                    texts.append(str(argument)[:LONGEST_LINE])
                continue
        if not _is_weights(name):
            found.append(name)
        if len(found) >= MOST_FOUND:
            break
    return found


def _is_weights(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return (
        name in _HARMLESS
        or (module in ("torch", "torch.cuda") and last.endswith("Storage"))
        or (module == "torch" and last in _DTYPES)
    )
