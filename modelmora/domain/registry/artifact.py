"""The files of a version, named by what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelmora.errors import ValidationFailed

_SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_PATH, LONGEST_PART_BYTES = 512, 255
MOST_FILES = 10_000
MOST_MANIFEST_BYTES = 4 * 2**20
MANIFEST = ".manifest"
"""The name that the list of the files itself has where they lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file; `path` is relative, with slashes, and stays inside the artifact."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _inside(self.path):
            raise ValidationFailed(
                "a file's path leaves the artifact or is none",
                field="files.path",
                found=self.path[:LONGEST_PATH],
                expected="a relative path with slashes, without . and ..",
            )
        if self.bytes < 0:
            raise ValidationFailed(f"{self.path} has {self.bytes} bytes", field="files.bytes", found=str(self.bytes))
        check_sha256(self.sha256, field="files.sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """All files of a version in the order of their paths; `sha256` is of the whole, `uri` where it is kept."""

    uri: str
    sha256: str
    files: tuple[ArtifactFile, ...]

    def __post_init__(self) -> None:
        if self.sha256 != digest_of(self.files):
            raise ValidationFailed(
                "an artifact's digest is not that of its files",
                field="sha256",
                found=self.sha256[:64],
                expected=digest_of(self.files),
            )

    @classmethod
    def of(cls, uri: str, files: Iterable[ArtifactFile]) -> Artifact:
        """Raises ValidationFailed without files, with too many, or with a path twice."""
        ordered = tuple(sorted(files, key=lambda file: file.path))
        if not 0 < len(ordered) <= MOST_FILES:
            expected = f"1 to {MOST_FILES} files"
            said = f"an artifact of {len(ordered)} files"
            raise ValidationFailed(said, field="files", found=str(len(ordered)), expected=expected)
        _refuse_in_the_way([file.path for file in ordered])
        if (size := len(manifest_of(ordered))) > MOST_MANIFEST_BYTES:
            said, expected = "the paths together are too long", f"at most {MOST_MANIFEST_BYTES} bytes"
            raise ValidationFailed(said, field="files", found=f"{size} bytes", expected=expected)
        return cls(uri=uri, sha256=digest_of(ordered), files=ordered)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def manifest_of(files: Iterable[ArtifactFile]) -> bytes:
    """A line a file, `sha256  path` in the order of the paths, as `sha256sum` writes it. The object of this content has
    the artifact's digest: who has that and the object store finds every file."""
    ordered = sorted(files, key=lambda file: file.path)
    return "".join(f"{file.sha256}  {file.path}\n" for file in ordered).encode()


def listed(manifest: bytes) -> tuple[tuple[str, str], ...]:
    """The path and digest of each file; raises ValidationFailed for what is no manifest."""
    found: list[tuple[str, str]] = []
    for line in manifest.decode(errors="replace").splitlines():
        sha256, _, path = line.partition("  ")
        file = ArtifactFile(path=path, bytes=0, sha256=sha256)
        found.append((file.path, file.sha256))
    _refuse_in_the_way([path for path, _ in found])
    return tuple(found)


def digest_of(files: Iterable[ArtifactFile]) -> str:
    """The sha256 of the manifest."""
    return hashlib.sha256(manifest_of(files)).hexdigest()


def check_sha256(text: str, *, field: str) -> None:
    """Raises ValidationFailed for what is no digest."""
    if not _SHA256.fullmatch(text):
        raise ValidationFailed("not a SHA-256", field=field, found=text[:64], expected="64 letters 0-9 a-f")


def _refuse_in_the_way(paths: list[str]) -> None:
    """Raises ValidationFailed for a path that is there twice, or is the folder of another."""
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValidationFailed("a file is there twice", field="files.path", found=path)
        if path in folders:
            raise ValidationFailed("a file is where another's folder is", field="files.path", found=path)
        seen.add(path)


def _inside(path: str) -> bool:
    plain = 0 < len(path) <= LONGEST_PATH and path.isprintable() and "\\" not in path
    parts = PurePosixPath(path).parts
    whole = str(PurePosixPath(path)) == path and not path.startswith("/") and ".." not in parts and path != "."
    return plain and whole and parts[0] != MANIFEST and all(len(part.encode()) <= LONGEST_PART_BYTES for part in parts)
