"""Many items cut into requests that a server takes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from modelmora.domain.inference import Content
from modelmora.domain.outcome import Outcome
from modelmora.window import weight

CHUNK_ITEMS = 32
CHUNK_BYTES = 16 * 1024 * 1024


async def chunks(
    contents: AsyncIterable[Outcome[Content]], *, items: int = CHUNK_ITEMS, size: int = CHUNK_BYTES
) -> AsyncIterator[list[Outcome[Content]]]:
    """Up to `items` at a time and up to `size` bytes, in order; a larger one goes alone. Failures ride along."""
    chunk: list[Outcome[Content]] = []
    held = 0
    async for content in contents:
        its_size = weight(content)
        if chunk and (len(chunk) == items or held + its_size > size):
            yield chunk
            chunk, held = [], 0
        chunk.append(content)
        held += its_size
    if chunk:
        yield chunk
