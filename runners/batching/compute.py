"""One batch in a compute thread: run, and where it fails, split until only what is at fault has failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from modelmora import tracing
from modelmora.domain.models import Task
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import InternalError, ModelMoraError, OutOfMemory
from runners import capabilities, devices
from runners.payload import Body, Payload, rows_of
from runners.provider import Loaded, Tell

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Ran:
    """What became of a batch: one outcome per item, and what it taught.

    `extra` forwards were needed to find what is at fault, `culprits` are its indices, `starved` those that ran out of
    memory even alone, `fits` is how many rows the memory took after it was too small for the whole (None: it was not).
    """

    outcomes: list[Outcome[Body]] = field(default_factory=list)
    extra: int = 0
    culprits: list[int] = field(default_factory=list)
    starved: list[int] = field(default_factory=list)
    fits: int | None = None


def run_batch(loaded: Loaded, task: Task, batch: Sequence[Payload], *, threads: int, tell: Tell | None = None) -> Ran:
    """One outcome per input, same order; never raises for what the model raises.

    A batch that raises is halved until the inputs at fault stand alone: one bad input among n costs at most
    2 ceil(log2 n) extra forwards. One that is too large for the memory is halved too, and tried again.
    """
    ran = Ran()
    _run(ran, loaded, task, list(batch), _Manner(threads, tell))
    ran.extra -= 1  # the first forward was due anyway
    if ran.starved:  # not the size of the batch was at fault
        ran.fits = None
    if len(ran.starved) == 1 < len(batch):
        ran.culprits += ran.starved
    return ran


@dataclass(frozen=True, slots=True)
class _Manner:
    threads: int
    tell: Tell | None


def _run(ran: Ran, loaded: Loaded, task: Task, batch: list[Payload], how: _Manner) -> None:
    """Appends the outcomes of a part of the batch."""
    ran.extra += 1
    try:
        with tracing.child("forward", attributes={"modelmora.batch.items": len(batch)}):
            given = capabilities.forward(loaded, task, batch, threads=how.threads, tell=how.tell)
        if len(given) != len(batch):
            raise InternalError(f"the model answered {len(given)} rows for {len(batch)} inputs")
    except Exception as cause:
        if isinstance(cause, OutOfMemory | MemoryError):
            _make_room(ran, loaded, batch)
        if len(batch) == 1:
            return _blame(ran, loaded, cause)
        half = (len(batch) + 1) // 2
        _run(ran, loaded, task, batch[:half], how)
        _run(ran, loaded, task, batch[half:], how)
    else:
        ran.outcomes += capabilities.judged(loaded, given)


def _make_room(ran: Ran, loaded: Loaded, batch: Sequence[Payload]) -> None:
    """Gives back what can be given back; the half is what fits from now on, in rows."""
    devices.release()
    if len(batch) > 1:
        rows = sum(map(rows_of, batch))
        ran.fits = min((rows + 1) // 2, ran.fits or rows)
        log.warning("batch_too_large", model=loaded.description.model, items=len(batch), rows=rows, fits=ran.fits)


def _blame(ran: Ran, loaded: Loaded, cause: Exception) -> None:
    alone = ran.starved if isinstance(cause, OutOfMemory | MemoryError) else ran.culprits
    alone.append(len(ran.outcomes))
    ran.outcomes.append(Failed(_shown(loaded, cause)))


def _shown(loaded: Loaded, cause: Exception) -> ModelMoraError:
    """What the caller is told: our own errors, and nothing of the inside."""
    if isinstance(cause, ModelMoraError):
        return cause
    model = loaded.description.model
    log.warning("item_failed", model=model, exc_info=cause)
    if isinstance(cause, MemoryError):
        return OutOfMemory(f"{model}: one item alone takes more memory than there is", retry_after_s=5.0)
    return InternalError(f"{model} failed on this item; the runner's log has the details")
