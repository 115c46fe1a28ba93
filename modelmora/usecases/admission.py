"""What every inference passes first and leaves last: its version, its limits, its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelmora.domain.capability import TYPE_OF, cannot
from modelmora.domain.inference import Call, Content, Image, Inference, Text, Timed, Timings
from modelmora.domain.models import ModelRef, ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import LimitExceeded, ModelMoraError, ValidationFailed
from modelmora.ports import Hook, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for. Times in milliseconds, sizes in bytes, pixels and characters."""

    items: int = 256
    stream_items: int = 10_000
    image_bytes: int = 33_554_432
    pixels: int = 50_000_000
    text_chars: int = 2_000
    timeout_ms: int = 60_000
    max_timeout_ms: int = 600_000


class Admission:
    """The part that all inference use cases have in common. `clock` is in seconds."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        limits: Limits,
        hooks: Sequence[Hook] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self._traffic = traffic
        self._hooks = tuple(hooks)

    def serving(self, ref: str | None, task: Task, *, also: Sequence[str] = ()) -> ModelSpec:
        """The version that serves a request which names `ref` (None or empty: the task's default).

        Models of the task's type do, and those of the types in `also`. Raises ValidationFailed (no name),
        ModelNotFound, VersionNotFound, CapabilityMissing.
        """
        model = self._traffic.route(ModelRef.parse(ref) if ref else None, TYPE_OF[task])
        if model.type != TYPE_OF[task] and model.type not in also:
            raise cannot(model, task)
        return model

    def check_count(self, count: int) -> None:
        """Raises ValidationFailed (none), LimitExceeded (too many for one request)."""
        if count == 0:
            raise ValidationFailed("the request has no items", field="items", found="0", expected="at least 1")
        if count > self.limits.items:
            raise LimitExceeded(
                f"{count} items in one request",
                field="items",
                found=str(count),
                expected=f"at most {self.limits.items}",
            )

    def checked(self, item: Outcome[Content]) -> Outcome[Content]:
        """The item, failed where its size alone says so, before any decoding."""
        match item:
            case Ok(Image(data)) if len(data) > self.limits.image_bytes:
                return too_large(
                    "picture file", field="image", found=len(data), limit=self.limits.image_bytes, unit="bytes"
                )
            case Ok(Text(text)) if len(text) > self.limits.text_chars:
                return too_large("text", field="text", found=len(text), limit=self.limits.text_chars, unit="characters")
            case Ok(Text(text)) if not text.strip():
                return Failed(ValidationFailed("the text is empty", field="text", found=repr(text[:20])))
        return item

    def record(
        self, call: Call, model: ModelSpec, task: Task, outcomes: Sequence[Outcome[Timed]], total_ms: float
    ) -> None:
        """Leaves the one record of an inference with every hook."""
        if self._hooks:
            record = Inference(
                call=call, model=model, task=task, items=len(outcomes), total_ms=total_ms, outcomes=tuple(outcomes)
            )
            for hook in self._hooks:
                hook(record)


def too_large(what: str, *, field: str, found: int, limit: int, unit: str) -> Failed:
    """The failure of an item whose size alone says that it is not taken."""
    detail = f"the {what} has {found:,} {unit}, more than {limit:,}"
    return Failed(LimitExceeded(detail, field=field, found=f"{found} {unit}", expected=f"at most {limit} {unit}"))


def slowest(outcomes: Sequence[Outcome[Timed]]) -> Timings:
    """The longest of each stage over the items that succeeded."""
    done = [outcome.value.timings for outcome in outcomes if isinstance(outcome, Ok)]
    if not done:
        return Timings()
    return Timings(
        queue_ms=max(t.queue_ms for t in done),
        preprocess_ms=max(t.preprocess_ms for t in done),
        inference_ms=max(t.inference_ms for t in done),
    )


def first_error(outcomes: Sequence[Outcome[Timed]]) -> ModelMoraError | None:
    """The first failure, if any."""
    return next((o.error for o in outcomes if isinstance(o, Failed)), None)
