"""How alike vectors are to each other. Needs numpy, so the SDK does not import it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelmora.domain.inference import Vector
from modelmora.domain.tensors import Tensor


def cosines(vectors: Sequence[Vector | None]) -> Tensor:
    """float32 (n, n): the cosine of each with each, -1 to 1, one with itself exactly 1 (doubles, rounded once).

    NaN in the rows and columns of None and of a vector without length, which has no direction. All of one dimension.
    """
    count = len(vectors)
    matrix = np.full((count, count), np.nan, np.float32)
    rows = {i: np.frombuffer(v.data, "<f4").astype(np.float64) for i, v in enumerate(vectors) if v is not None}
    lengths = {i: float(np.linalg.norm(row)) for i, row in rows.items()}
    units = {i: row / lengths[i] for i, row in rows.items() if lengths[i] > 0}
    if units:
        stacked = np.stack(list(units.values()))
        matrix[np.ix_(list(units), list(units))] = stacked @ stacked.T
    return Tensor(dtype="float32", shape=(count, count), data=matrix.astype("<f4", copy=False).tobytes())
