"""Points with short vectors, and what is found among them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmora.domain.pictures.picture import Facts
from modelmora.domain.pictures.search import Point, Provenance, Question
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.ports import Vectors
from tests.pictures import START

PLAIN = IndexSettings()


def unit(*numbers: float) -> bytes:
    array = np.array(numbers, "<f4")
    normal: NDArray[np.float32] = (array / np.linalg.norm(array)).astype("<f4")
    return normal.tobytes()


def point(id_: str, *numbers: float, seq: int = 1, tags: tuple[str, ...] = (), at: int = 0, **metadata: Any) -> Point:
    made = Provenance(
        picture_id=id_, sha256="0" * 64, model="m", version="1.0.0", precision="fp32", seq=seq, embedded_at=START
    )
    return Point(
        vector=unit(*numbers),
        facts=Facts(filename=f"{id_}.png", tags=tags, metadata=metadata),
        provenance=made,
        content_type="image/png",
        created_at=START + timedelta(days=at),
    )


async def found(vectors: Vectors, name: str, **asked: Any) -> list[str]:
    question = Question(**{"vector": unit(1, 0, 0), **asked})
    return [hit.id for hit in await vectors.search(name, question)]
