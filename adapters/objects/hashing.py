"""The digest of what passes by."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from modelmora.errors import ArtifactCorrupt, ValidationFailed


class Hashing:
    """Bytes as they come, counted and digested on their way."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self.bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            if chunk:
                self._digest.update(chunk)
                self.bytes += len(chunk)
                yield chunk

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def check_given(self, expected: str | None) -> None:
        """Raises ValidationFailed where somebody announced other bytes than came."""
        if expected not in (None, self.sha256):
            said = f"{self.bytes} bytes came, and they are not what was announced"
            raise ValidationFailed(said, field="sha256", found=self.sha256, expected=expected)

    def check_kept(self, expected: str) -> None:
        """Raises ArtifactCorrupt where a store gives other bytes than it was given."""
        if self.sha256 != expected:
            said = f"the store's copy of {expected} is damaged: its {self.bytes} bytes have the digest {self.sha256}"
            raise ArtifactCorrupt(said, found=self.sha256, expected=expected)
