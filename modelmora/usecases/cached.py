"""The port `Embedder` with a memory: what was embedded before, or is being embedded now, is not computed again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from modelmora.domain.cache_keys import read, recipe_of, written
from modelmora.domain.inference import Call, Content, Embedded, Image
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DeadlineExceeded, InternalError, ModelMoraError
from modelmora.ports import Describer, Embedder, EmbeddingCache, Watch
from modelmora.telemetry import count_cached
from modelmora.usecases.flights import FINAL, Ear, Flight, Flights

LARGE_BYTES = 2**20
"""Larger ones are digested in a thread: the event loop would stand still for it."""


@dataclass(slots=True)
class _Asked:
    """One request: its items, the key of each, and what is known of each so far."""

    model: ModelSpec
    task: Task
    items: Sequence[Content]
    keys: Sequence[str]
    call: Call
    watch: Watch | None
    results: list[Outcome[Embedded] | None]

    def missing(self) -> list[int]:
        return [index for index, result in enumerate(self.results) if result is None]

    def ears(self, places: Iterable[int]) -> list[tuple[str, Ear]]:
        """Who hears of the progress of the items there."""
        watch = self.watch
        return [] if watch is None else [(self.keys[index], partial(watch, index)) for index in places]

    def final(self, places: Iterable[int]) -> None:
        """Says of those there that have a vector that nothing is left to be computed; `done` says who asked."""
        if self.watch is not None:
            for index in places:
                if isinstance(self.results[index], Ok):
                    self.watch(index, FINAL)


class CachedEmbedder:
    """In front of the runners: what several ask for at once is computed once for all of them.

    Each has a deadline of his own: who asked first may run out of time, or find the queue full for all he wants, and
    the others compute it then themselves. Other errors are told to all who wait and are not remembered.
    """

    def __init__(self, embedder: Embedder, describer: Describer, cache: EmbeddingCache) -> None:
        self._embedder = embedder
        self._describer = describer
        self._cache = cache
        self._process = secrets.token_hex(8)
        self._recipes: dict[tuple[str, Task], tuple[ModelSpec, str, int]] = {}
        self._flights = Flights()

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        """See the port; a remembered item has no timings. What fails all that is not remembered is raised only where
        nothing was."""
        try:
            recipe, dimension = await self._recipe(model, task, call)
        except ModelMoraError:
            dimension = 0
        if not dimension:  # what is wrong with the model, or with what it is asked for, the embedder says of each item
            return await self._embedder.embed(model, task, items, call=call, watch=watch)
        keys = await _keys(recipe, items, call)
        results, hits = await self._known(keys, dimension, task)
        if hits < len(items) or watch is not None:
            asked = _Asked(model, task, items, keys, call, watch, results)
            asked.final(range(len(items)))
            while missing := asked.missing():
                await self._fill(asked, missing)
        return [result for result in results if result is not None]

    async def _recipe(self, model: ModelSpec, task: Task, call: Call) -> tuple[str, int]:
        """What keys of this model and task have in common, and the dimension; 0 where it does not do the task."""
        kept = self._recipes.get((model.key, task))
        if kept is not None and kept[0] is model:
            return kept[1], kept[2]
        if kept is not None and kept[0] == model:
            self._recipes[model.key, task] = (model, kept[1], kept[2])  # the registry was read again
            return kept[1], kept[2]
        description = await self._describer.describe(model, deadline=call.deadline)
        able = description.image if task == "embed_image" else description.text
        recipe = recipe_of(model, task, description, process=self._process)
        self._recipes[model.key, task] = (model, recipe, description.dimension if able else 0)
        return recipe, description.dimension if able else 0

    async def _known(
        self, keys: Sequence[str], dimension: int, task: Task
    ) -> tuple[list[Outcome[Embedded] | None], int]:
        """The items that are remembered, and how many they are."""
        results: list[Outcome[Embedded] | None] = []
        hits = unreadable = 0
        for value in await self._cache.get(keys):
            made = None if value is None else read(value, dimension=dimension)
            hits += made is not None
            unreadable += made is None and value is not None
            results.append(None if made is None else Ok(made))
        count_cached(task, "hit", hits)
        count_cached(task, "error", unreadable)
        return results, hits

    async def _fill(self, asked: _Asked, missing: Sequence[int]) -> None:
        """Has those computed that nobody has computed now, in one call, and waits for the others."""
        alone: dict[str, list[int]] = {}
        shared: dict[Flight, list[int]] = {}
        for index in missing:
            key = asked.keys[index]
            flight = self._flights.find(key, asked.call)
            if flight is None:
                alone.setdefault(key, []).append(index)
            else:
                shared.setdefault(flight, []).append(index)
        count_cached(asked.task, "miss", len(alone))
        count_cached(asked.task, "joined", len(missing) - len(alone))
        with contextlib.ExitStack() as stack:
            for flight, places in shared.items():
                stack.enter_context(self._flights.waiting(flight, asked.ears(places)))
            if alone:
                await self._lead(asked, alone)
            for flight, places in shared.items():
                await _join(asked, flight, places)

    async def _lead(self, asked: _Asked, alone: dict[str, list[int]]) -> None:
        items = [asked.items[places[0]] for places in alone.values()]

        async def work(watch: Watch | None) -> list[Outcome[Embedded]]:
            """Remembered before it is told: who asks next finds the one or the other."""
            outcomes = await self._embedder.embed(asked.model, asked.task, items, call=asked.call, watch=watch)
            if len(outcomes) != len(items):
                raise InternalError(f"{len(outcomes)} outcomes for {len(items)} items")
            made = {key: written(o.value) for key, o in zip(alone, outcomes, strict=True) if isinstance(o, Ok)}
            if made:
                await self._cache.put(made)
            return outcomes

        places = [index for each in alone.values() for index in each]
        flight = self._flights.begin(list(alone), work, call=asked.call, watched=asked.watch is not None)
        with self._flights.waiting(flight, asked.ears(places)):
            await flight.landed()
        try:
            outcomes = flight.task.result()
        except ModelMoraError as error:
            if len(places) == len(asked.items):
                raise
            outcomes = [Failed(error)] * len(items)
        for each, outcome in zip(alone.values(), outcomes, strict=True):
            for index in each:
                asked.results[index] = outcome


async def _join(asked: _Asked, flight: Flight, places: Sequence[int]) -> None:
    """What another request has computed; left open where that came to nothing for reasons of its own."""
    if not await flight.landed(within_s=max(0.0, asked.call.deadline - time.monotonic())):
        late = Failed(DeadlineExceeded("the deadline passed while the same item was being embedded for another"))
        for index in places:
            asked.results[index] = late
        return
    for index in places:
        asked.results[index] = flight.told(asked.keys[index])
    asked.final(places)


async def _keys(recipe: str, items: Sequence[Content], call: Call) -> list[str]:
    """What each item is remembered under."""
    keys = []
    of_text = f"{recipe}:truncated" if call.truncate else recipe
    for item in items:
        if not isinstance(item, Image):
            keys.append(f"{_digest(item.text.encode(errors='surrogatepass'))}:{of_text}")
        elif len(item.data) <= LARGE_BYTES:
            keys.append(f"{_digest(item.data)}:{recipe}")
        else:
            keys.append(f"{await asyncio.to_thread(_digest, item.data)}:{recipe}")
    return keys


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
