"""Many items cut into requests that a server takes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from modelmora.domain.inference import Content, Image, Text
from modelmora.domain.outcome import Ok, Outcome

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


def weight(content: Outcome[Content]) -> int:
    """Bytes it takes to send; 0 for a failure."""
    match content:
        case Ok(Image(data)):
            return len(data)
        case Ok(Text(text)):
            return 4 * len(text)
        case _:
            return 0
