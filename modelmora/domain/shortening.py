"""Shorter vectors of models that were trained for them (Matryoshka, Kusupati et al. 2022)."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

from modelmora.domain.description import Description
from modelmora.domain.inference import Embedded, Vector
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ValidationFailed

FIELD = "dimensions"


def check_dimensions(description: Description, wanted: int) -> None:
    """Raises ValidationFailed where the model has no vectors of so many components; its own dimension always is one."""
    own, least = description.dimension, description.shortens
    if wanted == own or (least and least <= wanted < own):
        return
    if least:
        detail, expected = f"the vectors of {description.model} cannot have {wanted} dimensions", f"{least} to {own}"
    else:
        detail, expected = f"{description.model} does not allow shortened vectors", str(own)
    raise ValidationFailed(detail, field=FIELD, found=str(wanted), expected=expected)


def shortened(whole: Embedded, dimension: int) -> Outcome[Embedded]:
    """The first components, L2-normalised anew; as it was where there are no more. Fails where all of them are zero."""
    if whole.vector.dimension <= dimension:
        return Ok(whole)
    form = f"<{dimension}f"
    first = struct.unpack_from(form, whole.vector.data)
    length = math.hypot(*first)
    if length == 0:
        return Failed(
            ValidationFailed(
                f"the first {dimension} components of this vector are all zero: there is no direction left",
                field=FIELD,
                found=str(dimension),
                expected="more dimensions",
            )
        )
    return Ok(replace(whole, vector=Vector(struct.pack(form, *(each / length for each in first)))))
