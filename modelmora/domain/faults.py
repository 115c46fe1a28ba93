"""Several things wrong with one request, as one error."""

from __future__ import annotations

from collections.abc import Sequence

from modelmora.errors import Fault, SchemaMismatch

SHOWN = 20
"""A request can have a million faults; so many are shown, and whoever looks for them may stop at the next one."""


def mismatch(faults: Sequence[Fault]) -> SchemaMismatch:
    """The error of tensors that are not as declared: all of their faults, the first of them in its own words too."""
    first = faults[0]
    count = str(len(faults)) if len(faults) <= SHOWN else f"more than {SHOWN}"
    detail = first.detail if len(faults) == 1 else f"{count} things are wrong; the first: {first.detail}"
    return SchemaMismatch(
        detail, field=first.field, found=first.found, expected=first.expected, faults=tuple(faults[:SHOWN])
    )
