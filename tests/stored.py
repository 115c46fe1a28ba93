"""Artifacts put into an object store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from modelmora.domain.registry.artifact import Artifact, ArtifactFile, manifest_of
from modelmora.ports import Objects


async def registered(objects: Objects, contents: Mapping[str, bytes]) -> str:
    """The digest of an artifact of these files, which are in the store from now on."""
    files = [
        ArtifactFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    ]
    artifact = Artifact.of("", files)
    for content in (*contents.values(), manifest_of(artifact.files)):
        await objects.put(_once(content))
    return artifact.sha256


def files_in(folder: Path) -> dict[str, bytes]:
    """All files below the folder, by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
