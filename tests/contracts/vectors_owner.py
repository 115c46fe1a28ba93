"""A process that has a folder of vectors and shares it until it is killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from adapters.vectors.owner import SharedVectors, socket_of
from adapters.vectors.qdrant import QdrantVectors


async def main(folder: Path) -> None:
    vectors = await QdrantVectors.local(folder)
    await SharedVectors(vectors, socket_of(folder)).start()
    sys.stdout.write("here\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
