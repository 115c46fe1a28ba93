"""What a version was trained on and how, and how well and how fast it was found to be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from modelmora.domain.models import ModelRef
from modelmora.domain.registry.artifact import check_sha256
from modelmora.domain.registry.lineage import Node
from modelmora.domain.registry.texts import check_json, check_length, check_number
from modelmora.errors import ValidationFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMetadata:
    """How a version came to be, as far as whoever registers it tells.

    `dataset_sha256` is of the data as it was trained on; `revision` of the training code; `parent` the `name@version`
    that it was fine-tuned, distilled or quantised from. `trained_at` has a time zone. `parameters` are JSON.
    """

    dataset: str = ""
    dataset_sha256: str | None = None
    revision: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trained_by: str = ""
    trained_at: datetime | None = None
    parent: str | None = None

    def __post_init__(self) -> None:
        for name in ("dataset", "revision", "trained_by"):
            check_length(getattr(self, name), field=f"training.{name}")
        check_json(self.parameters, field="training.parameters")
        if self.dataset_sha256 is not None:
            check_sha256(self.dataset_sha256, field="training.dataset_sha256")
            if not self.dataset:
                raise ValidationFailed("a data set's digest without its name", field="training.dataset", found="")
        if self.trained_at is not None and self.trained_at.tzinfo is None:
            found = self.trained_at.isoformat()
            said = "a moment without a time zone"
            raise ValidationFailed(said, field="training.trained_at", found=found, expected="RFC 3339, in UTC")
        if self.parent is not None and ModelRef.parse(self.parent).version is None:
            said = "a parent is a version"
            raise ValidationFailed(said, field="training.parent", found=self.parent, expected="name@version")

    @property
    def made_of(self) -> tuple[Node, ...]:
        """Its parents in the lineage."""
        data = (Node("dataset", "@".join(filter(None, (self.dataset, self.dataset_sha256)))),) if self.dataset else ()
        return (*((Node("version", self.parent),) if self.parent else ()), *data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A measure of quality, such as `recall@1`, on a data set."""

    name: str
    value: float
    dataset: str

    def __post_init__(self) -> None:
        check_length(self.name, field="baseline.metrics.name", least=1)
        check_length(self.dataset, field="baseline.metrics.dataset", least=1)
        check_number(self.value, field=f"baseline.metrics.{self.name}", least=-math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceBaseline:
    """What later versions and running ones are held against.

    Milliseconds of one item alone, in the median and at the 95th percentile, and bytes of the model with a full batch,
    on `device` in `precision` by `engine`; None where it was not measured.
    """

    metrics: tuple[Metric, ...] = ()
    p50_ms: float | None = None
    p95_ms: float | None = None
    memory_bytes: int | None = None
    device: str = ""
    engine: str = ""
    precision: str = ""

    def __post_init__(self) -> None:
        for name in ("device", "engine", "precision"):
            check_length(getattr(self, name), field=f"baseline.{name}")
        for name in ("p50_ms", "p95_ms", "memory_bytes"):
            if (value := getattr(self, name)) is not None:
                check_number(value, field=f"baseline.{name}", least=0.0)
        if self.p50_ms is not None and self.p95_ms is not None and self.p95_ms < self.p50_ms:
            found = f"{self.p95_ms} below {self.p50_ms}"
            raise ValidationFailed("a 95th percentile below the median", field="baseline.p95_ms", found=found)
        seen: set[tuple[str, str]] = set()
        for metric in self.metrics:
            if (metric.name, metric.dataset) in seen:
                found = f"{metric.name} on {metric.dataset}"
                raise ValidationFailed("a metric is there twice", field="baseline.metrics", found=found)
            seen.add((metric.name, metric.dataset))

    def with_metrics(self, found: Iterable[Metric]) -> PerformanceBaseline:
        """Of the same name on the same data set, the one found now."""
        by_place = {(one.name, one.dataset): one for one in (*self.metrics, *found)}
        return replace(self, metrics=tuple(by_place.values()))
