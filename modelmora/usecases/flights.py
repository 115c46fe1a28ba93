"""What is being embedded right now, for all who ask for it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from modelmora.domain.inference import Call, Embedded
from modelmora.domain.outcome import Failed, Outcome
from modelmora.domain.progress import Step
from modelmora.errors import ModelMoraError, unexpected
from modelmora.ports import Watch

FINAL = Step("inference", 1, 1)
"""The last step of an item that nothing was left to be computed of; that it is done its use case says."""

_OWN = frozenset({"deadline_exceeded", "cancelled", "overloaded"})
"""What befell one caller, and says nothing to those who wait with him."""

Ear = Callable[[Step], None]
Work = Callable[[Watch | None], Coroutine[None, None, list[Outcome[Embedded]]]]
"""Computes the items of a flight; told who watches."""


@dataclass(slots=True, eq=False)
class Flight:
    """Items that are computed together: by whoever asked first, under his deadline and with his priority.

    `places` is where each key's item is, `ears` hear of the progress of each, `waiting` want what comes of it.
    """

    call: Call
    places: dict[str, int]
    ears: list[list[Ear]]
    task: asyncio.Task[list[Outcome[Embedded]]]
    waiting: int = 0

    async def landed(self, *, within_s: float | None = None) -> bool:
        """Waits until it has come to an end, whatever that is; False where that takes longer."""
        done, _ = await asyncio.wait((self.task,), timeout=within_s)
        return bool(done)

    def told(self, key: str) -> Outcome[Embedded] | None:
        """For who did not ask first, once it landed: None where it came to nothing for reasons of who did."""
        if self.task.cancelled():
            return None
        match self.task.exception():
            case None:
                outcome = self.task.result()[self.places[key]]
            case ModelMoraError() as error:
                outcome = Failed(error)
            case _:
                outcome = Failed(unexpected())  # the cause is logged for who asked first
        return None if isinstance(outcome, Failed) and outcome.error.code in _OWN else outcome


class Flights:
    """Who leaves does not take the work from the others; when the last one leaves it is cancelled. One event loop
    only."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}

    def find(self, key: str, call: Call) -> Flight | None:
        """The flight that has the item; interactive work does not wait for bulk work."""
        flight = self._by_key.get(key)
        if flight is None or (flight.call.priority == "bulk" and call.priority == "interactive"):
            return None
        return flight

    def begin(self, keys: Sequence[str], work: Work, *, call: Call, watched: bool) -> Flight:
        """The work under way; nobody waits for it yet. Progress costs messages: there is none unless it is asked for
        now."""
        ears: list[list[Ear]] = [[] for _ in keys]

        def watch(place: int, step: Step) -> None:
            for ear in tuple(ears[place]):
                ear(step)

        task = asyncio.create_task(work(watch if watched else None))
        flight = Flight(call, {key: place for place, key in enumerate(keys)}, ears, task)
        task.add_done_callback(lambda _: self._ended(flight))
        self._by_key.update(dict.fromkeys(keys, flight))
        return flight

    @contextlib.contextmanager
    def waiting(self, flight: Flight, ears: Sequence[tuple[str, Ear]] = ()) -> Iterator[None]:
        """For as long as somebody wants what comes of it."""
        flight.waiting += 1
        for key, ear in ears:
            flight.ears[flight.places[key]].append(ear)
        try:
            yield
        finally:
            flight.waiting -= 1
            for key, ear in ears:
                flight.ears[flight.places[key]].remove(ear)
            if not flight.waiting and not flight.task.done():
                self._forget(flight)  # who comes next begins anew, and does not wait for what was cancelled
                flight.task.cancel()

    def _ended(self, flight: Flight) -> None:
        self._forget(flight)
        if not flight.task.cancelled():
            flight.task.exception()  # whoever wanted to hear of it may have left

    def _forget(self, flight: Flight) -> None:
        for key in flight.places:
            if self._by_key.get(key) is flight:
                del self._by_key[key]
