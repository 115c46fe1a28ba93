"""Classes of a picture as the SDK hands them over, and how to ask for them."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.client.served import Served
from modelmora.domain.classification import Class


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions:
    """How to classify; None: as the server usually does."""

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    top_k: int | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(Served):
    """The classes of one picture, the likeliest first."""

    classes: tuple[Class, ...]

    @property
    def best(self) -> Class | None:
        """The likeliest; None where none reached the threshold."""
        return self.classes[0] if self.classes else None
