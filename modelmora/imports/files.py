"""The files of a folder as they go into an artifact."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelmora.domain.registry.artifact import MOST_FILES, ArtifactFile
from modelmora.errors import InvalidInput, ValidationFailed

LEFT_OUT = frozenset(
    {".git", ".hg", ".svn", ".bzr", ".cache", ".ipynb_checkpoints", "__pycache__", ".DS_Store", "Thumbs.db"}
)
"""What versioning, hubs and desktops leave in a folder, and no model is made of."""

_NO_DIGEST = "0" * 64
_POINTER, _LONGEST_POINTER = b"version https://git-lfs", 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file here, and its path in the artifact."""

    path: str
    at: Path
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a folder holds, in the order of the paths, and what was left out of it."""

    files: tuple[LocalFile, ...]
    left_out: tuple[str, ...] = ()


def listed(folder: Path) -> Listed:
    """All files below; a link to a file in the folder is that file.

    Links that leave it are refused, but for those of a snapshot in a hub's cache, whose files are links into `blobs`.
    Raises ValidationFailed naming the file that cannot be in an artifact, InvalidInput for what cannot be read.
    """
    files, left_out = list[LocalFile](), list[str]()
    try:
        root = folder.resolve(strict=True)
        for at in _walked(folder, left_out):
            files.append(local_file(at, at.relative_to(folder).as_posix(), within=_allowed(root)))
            if len(files) > MOST_FILES:
                said = f"{folder} holds more files than a model"
                raise ValidationFailed(said, field="path", found=f"over {MOST_FILES}", expected=f"at most {MOST_FILES}")
    except OSError as cause:
        raise unreadable(cause, folder) from cause
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return Listed(files=ordered, left_out=tuple(sorted(os.path.relpath(one, folder) for one in left_out)))


def local_file(at: Path, path: str, *, within: tuple[Path, ...] = ()) -> LocalFile:
    """One file as it is; `within`: where a link may lead, anywhere if empty. Raises ValidationFailed, OSError."""
    ArtifactFile(path=path, bytes=0, sha256=_NO_DIGEST)  # what is no path in an artifact is refused before it is read
    if within and not any(at.resolve().is_relative_to(one) for one in within):
        where = os.readlink(at) if at.is_symlink() else at.resolve()
        raise _refused(path, f"a link that leaves the folder, to {where}", "a file; copy it there")
    found = at.stat()
    if stat.S_ISDIR(found.st_mode):
        raise _refused(path, "a link to a folder", "a folder; copy it there")
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "neither a file nor a folder", "files alone")
    if found.st_size <= _LONGEST_POINTER and at.read_bytes().startswith(_POINTER):
        raise _refused(path, "a pointer of Git LFS, without the content it stands for", "the file: run `git lfs pull`")
    return LocalFile(path=path, at=at, bytes=found.st_size)


def unreadable(cause: OSError | ValueError, path: Path) -> InvalidInput:
    """What the system says of a file that cannot be read."""
    where, why = getattr(cause, "filename", None) or path, getattr(cause, "strerror", None) or cause
    return InvalidInput(f"cannot read {where}: {why}", field="path", found=str(where))


def _walked(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Everything below that is no folder; what is left out is noted."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name in LEFT_OUT:
                    left_out.append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    yield Path(entry.path)


def _allowed(root: Path) -> tuple[Path, ...]:
    """Where links may lead: `models--*/snapshots/<revision>` is huggingface_hub's cache, beside its `blobs`."""
    cached = root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")
    return (root, root.parent.parent / "blobs") if cached else (root,)


def _refused(path: str, found: str, expected: str) -> ValidationFailed:
    return ValidationFailed(f"{path} cannot be registered: {found}", field="path", found=found, expected=expected)
