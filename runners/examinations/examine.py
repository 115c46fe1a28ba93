"""Long looks at a model on this worker, by name; one at a time, since each measures."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing

if TYPE_CHECKING:
    from runners.host import RunnerHost


class Examination(Protocol):
    """Steps, JSON-ready, the last one is the report; what it holds it lets go when the caller leaves."""

    def __call__(
        self, host: RunnerHost, spec: ModelSpec, *, deadline: float
    ) -> AsyncGenerator[dict[str, Any], None]: ...


def examination(what: str) -> Examination:
    """Raises CapabilityMissing naming those there are."""
    match what:
        case "verify":
            from runners.examinations.parity import verify  # noqa: PLC0415 - here and below: only who examines needs it

            return verify
        case "tune":
            from runners.examinations.tuning import tune  # noqa: PLC0415

            return tune
        case "validate":
            from runners.examinations.validation import validate  # noqa: PLC0415

            return validate
    raise CapabilityMissing(f"no examination {what!r}; there are verify, tune and validate", field="what", found=what)


async def examine(
    host: RunnerHost, spec: ModelSpec, what: str, *, deadline: float
) -> AsyncGenerator[dict[str, Any], None]:
    """The steps of one examination, in its turn; `deadline` is on `time.monotonic()`."""
    wanted = examination(what)
    if host.examining.locked():
        yield {"stage": "waiting", "done": 0, "total": 0}
    async with host.examining, aclosing(wanted(host, spec, deadline=deadline)) as steps:
        async for step in steps:
            yield step
