"""What `modelmora embed` was asked to embed: files, the pictures of folders, texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelmora.client import Text
from modelmora.errors import InvalidInput

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to embed; `size` and `mtime_ns` tell whether a file is still the same, 0 for a text."""

    kind: Literal["path", "text"]
    name: str
    size: int = 0
    mtime_ns: int = 0

    @property
    def content(self) -> Path | Text:
        return Path(self.name) if self.kind == "path" else Text(self.name)


def collect(paths: Sequence[Path], texts: Sequence[str], *, recursive: bool) -> list[Source]:
    """Files as named, folders in alphabetical order, then texts; each once. Raises InvalidInput for a bad path."""
    pictures = (_picture(file) for path in paths for file in _files(path, recursive))
    return [*dict.fromkeys([*pictures, *(Source("text", text) for text in texts)])]


def _files(path: Path, recursive: bool) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, below, names in os.walk(path, onerror=_refuse):
        below[:] = sorted(name for name in below if recursive and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder, name)


def _picture(path: Path) -> Source:
    try:
        stat = path.stat()
    except OSError as cause:
        raise InvalidInput(f"cannot read {path}: {cause.strerror}", field="path", found=str(path)) from cause
    return Source("path", str(path), stat.st_size, stat.st_mtime_ns)


def _refuse(cause: OSError) -> None:
    raise InvalidInput(f"cannot list {cause.filename}: {cause.strerror}", field="path") from cause
