"""What a search asks: its parts with their weights, what it is narrowed to, and which page of the answer is wanted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TypeAlias

from modelmora.domain.inference import Image, Text, Vector
from modelmora.domain.pictures.cursors import fingerprint, make_cursor, read_cursor
from modelmora.domain.pictures.filters import read_id, read_key
from modelmora.domain.pictures.picture import checked_collection
from modelmora.domain.pictures.search import Filter
from modelmora.domain.pictures.weights import check_weight
from modelmora.domain.registry.pages import MOST
from modelmora.errors import LimitExceeded, ValidationFailed

LIMIT, GROUP_SIZE = 20, 3
MOST_PARTS, MOST_OF_GROUP = 16, 100
EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class Like:
    """The vector that a kept picture has in the index."""

    id: str


PartContent: TypeAlias = Text | Image | Like | Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to be like, or with a negative weight unlike."""

    content: PartContent
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValidationFailed."""
        check_weight(self.weight, field="weight")
        if isinstance(self.content, Like):
            read_id(self.content.id, field="id")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """`limit` results, or with `group_by`, a key of metadata, so many groups of `group_size`, which have no further
    pages. `model` None: the default embedding model. Raises ValidationFailed, LimitExceeded."""

    parts: tuple[Part, ...]
    limit: int = LIMIT
    cursor: str | None = None
    filter: Filter = EVERYTHING
    score_threshold: float | None = None
    model: str | None = None
    collection: str = "default"
    exact: bool = False
    group_by: str | None = None
    group_size: int = GROUP_SIZE

    def __post_init__(self) -> None:
        if not self.parts:
            expected = "text, image, id, vector or queries"
            raise ValidationFailed("the question is empty", field="queries", found="nothing", expected=expected)
        if len(self.parts) > MOST_PARTS:
            found, expected = str(len(self.parts)), f"at most {MOST_PARTS}"
            raise LimitExceeded(f"{found} parts of one question", field="queries", found=found, expected=expected)
        checked_collection(self.collection)
        _check_range("limit", self.limit, MOST)
        _check_range("group_size", self.group_size, MOST_OF_GROUP)
        if self.score_threshold is not None and not math.isfinite(self.score_threshold):
            raise ValidationFailed("not a score", field="score_threshold", found=str(self.score_threshold))
        if self.group_by is not None:
            read_key(self.group_by, field="group_by")
            if self.cursor is not None:
                raise ValidationFailed("groups have no further pages", field="cursor", found=self.cursor[:80])

    @property
    def likes(self) -> tuple[str, ...]:
        """The kept pictures that are asked for; they are not among the results."""
        return tuple(dict.fromkeys(part.content.id for part in self.parts if isinstance(part.content, Like)))

    def offset(self) -> int:
        """Where the page begins; raises ValidationFailed for another question's cursor."""
        return 0 if self.cursor is None else read_cursor(self.cursor, self._fingerprint())

    def following(self, offset: int) -> str | None:
        """The cursor of the next page; None where pages end."""
        return make_cursor(offset, self._fingerprint())

    def _fingerprint(self) -> str:
        """Of all but how much of the answer is wanted."""
        told = {
            "parts": [
                [type(part.content).__name__, *asdict(part.content).values(), part.weight] for part in self.parts
            ],
            "filter": asdict(self.filter),
            "plain": [self.score_threshold, self.model, self.collection, self.exact],
        }
        return fingerprint(told)


def _check_range(field: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        said, expected = f"{field} is out of range", f"1 to {most}"
        raise ValidationFailed(said, field=field, found=str(value)[:40], expected=expected)
