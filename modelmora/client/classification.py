"""Classes of a picture as the SDK hands them over, and how to ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelmora.domain.classification import Class
from modelmora.domain.inference import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """How to classify; None: as the server usually does."""

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    top_k: int | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The classes of one picture, the likeliest first, and which version of which model found them.

    `timings` and `total_ms` are the server's own for the whole request and do not count in `==`.
    """

    classes: tuple[Class, ...]
    model: str
    version: str
    timings: Timings = field(default=Timings(), compare=False)
    total_ms: float = field(default=0.0, compare=False)

    @property
    def key(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def best(self) -> Class | None:
        """The likeliest; None where none reached the threshold."""
        return self.classes[0] if self.classes else None
