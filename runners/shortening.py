"""How far a model's vectors may be cut: `config: {shortens: 64}`, said of models trained for it and of no other."""

from __future__ import annotations

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed

KEY = "shortens"


def shortest(spec: ModelSpec, dimension: int) -> int:
    """The smallest dimension (0: none but the model's own); raises ModelLoadFailed for one that cannot be."""
    value = spec.config.get(KEY, 0)
    if type(value) is int and 0 <= value <= dimension:
        return value
    raise ModelLoadFailed(
        f"{spec.key}: config.{KEY} is the smallest dimension that vectors may be cut to",
        field=f"config.{KEY}",
        found=repr(value),
        expected=f"a whole number from 0 (never cut) to {dimension}",
    )
