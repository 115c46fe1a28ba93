"""Files that come into a folder: each is there whole or not at all, and what nobody writes any more is known."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelmora.errors import DependencyUnavailable

COMING = "uploads"
"""The folder of what is not whole yet; it is swept of what killed processes left."""


def create(folder: Path) -> tuple[BinaryIO, Path]:
    """A new file, and where; whoever writes it holds its lock, by which it is known from what was left."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = folder / secrets.token_hex(16)
        file = path.open("xb")
        if locked(file) and os.fstat(file.fileno()).st_nlink:
            return file, path
        file.close()  # swept before it was locked


def locked(file: BinaryIO) -> bool:
    """Whether the lock of the file is this process's now."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(file: BinaryIO) -> None:
    """Its bytes are on the disk afterwards."""
    file.flush()
    os.fsync(file.fileno())


def settle(coming: Path, place: Path) -> None:
    """In its place for good, in one step, instead of what was there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    coming.replace(place)
    descriptor = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(root: Path, what: str) -> Iterator[None]:
    """What the system says of the folder for `what` becomes DependencyUnavailable."""
    try:
        yield
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "is full: make room, or name another folder" if full else f"cannot be used: {cause.strerror}"
        raise DependencyUnavailable(f"the folder for {what}, {root}, {said} (MODELMORA_OBJECTS_URL)") from cause
