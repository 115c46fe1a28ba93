"""One of several models beside each other, as the SDK hands it over."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from modelmora.client.embedding import Embedding
from modelmora.client.retry import most_patient
from modelmora.client.served import Served
from modelmora.client.tensors import Array
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import RETRYABLE, InternalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Served):
    """What one model makes of the items, and what it costs.

    `results` has an outcome per item. `bytes` is its measured footprint (0: not known), `dimension` 0 where every item
    failed. `similarities` is float32 (items, items): the cosine of each with each, NaN where one failed.
    """

    results: tuple[Outcome[Embedding], ...]
    dimension: int
    bytes: int
    similarities: Array = field(repr=False, compare=False)


def square(values: Sequence[float | None], size: int) -> Array:
    """float32 (size, size) of as many values, None as NaN; raises InternalError where there are others."""
    if len(values) != size * size:
        raise InternalError(f"the server sent {len(values)} similarities of {size} items", field="similarities")
    floats = array("f", (math.nan if value is None else value for value in values))
    if sys.byteorder == "big":
        floats.byteswap()
    return Array(dtype="float32", shape=(size, size), data=floats.tobytes())


def taken(comparison: Comparison, order: Sequence[int]) -> Comparison:
    """The same with item `order[0]` first, then item `order[1]` ..."""
    rows = comparison.similarities.tolist()
    return replace(
        comparison,
        results=tuple(comparison.results[place] for place in order),
        similarities=square([rows[one][other] for one in order for other in order], len(order)),
    )


def completed(comparison: Comparison, items: Sequence[Outcome[T]]) -> Comparison:
    """The same over all `items`, of which only those that could be read were sent."""
    results, places = iter(comparison.results), _places(items)
    rows = comparison.similarities.tolist()
    values = [None if a is None or b is None else rows[a][b] for a in places for b in places]
    return replace(
        comparison,
        results=tuple(item if isinstance(item, Failed) else next(results) for item in items),
        similarities=square(values, len(items)),
    )


def passing(outcome: Outcome[Comparison]) -> Outcome[Comparison]:
    """A model whose every item failed for reasons that may pass failed as a whole, so that it is asked again."""
    if not isinstance(outcome, Ok):
        return outcome
    errors = [result.error for result in outcome.value.results if isinstance(result, Failed)]
    whole = len(errors) == len(outcome.value.results) and all(error.code in RETRYABLE for error in errors)
    return Failed(most_patient(errors)) if errors and whole else outcome


def _places(items: Sequence[Outcome[T]]) -> list[int | None]:
    """Where each item stands among those that were sent."""
    sent: Iterator[int] = iter(range(len(items)))
    return [next(sent) if isinstance(item, Ok) else None for item in items]
