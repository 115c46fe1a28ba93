"""One embedding as the SDK hands it over: bytes first, lists and numpy arrays on demand."""

from __future__ import annotations

import math
import sys
from array import array
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING

from modelmora.client.served import Served
from modelmora.errors import ValidationFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Served):
    """A vector: `data` is little-endian float32, four bytes a component.

    Those of different `key` must not be compared.
    """

    data: bytes = field(repr=False)

    @property
    def dimension(self) -> int:
        return len(self.data) // 4

    def tolist(self) -> list[float]:
        """The components as Python floats, without numpy."""
        return self._components().tolist()

    def cosine(self, other: Embedding) -> float:
        """Cosine similarity, -1..1; 0 when either vector is zero. Raises ValidationFailed across models."""
        if (self.key, self.dimension) != (other.key, other.dimension):
            raise ValidationFailed(
                "vectors of different models cannot be compared; embed both with the same model and version",
                field="other",
                found=f"{other.key} ({other.dimension})",
                expected=f"{self.key} ({self.dimension})",
            )
        mine, theirs = self._components(), other._components()
        norms = math.hypot(*mine) * math.hypot(*theirs)
        return math.fsum(map(mul, mine, theirs)) / norms if norms else 0.0

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """For `numpy.asarray(embedding)`: a read-only view unless a copy or another type is asked for."""
        import numpy as np  # noqa: PLC0415 - numpy is an extra; only who calls this has it

        return np.array(np.frombuffer(self.data, dtype="<f4"), dtype=dtype, copy=copy)

    def _components(self) -> array[float]:
        components = array("f", self.data)
        if sys.byteorder == "big":
            components.byteswap()
        return components
