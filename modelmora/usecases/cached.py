"""The port `Embedder` with a memory: what was embedded before, or is being embedded now, is not computed again."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence

from modelmora.domain.cache_keys import read, recipe_of, written
from modelmora.domain.inference import Call, Content, Embedded, Image
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.errors import DeadlineExceeded, ModelMoraError
from modelmora.ports import Describer, Embedder, EmbeddingCache, Watch
from modelmora.telemetry import CACHED

LARGE_BYTES = 2**20
"""Larger ones are digested in a thread: the event loop would stand still for it."""
_OWN = frozenset({"deadline_exceeded", "cancelled", "overloaded"})
"""What befell one caller, and says nothing to those who wait with him."""

_Flight = asyncio.Future[Outcome[Embedded]]


class CachedEmbedder:
    """In front of the runners. What several ask for at once the first of them has computed; when he leaves, or his time
    is over, the next one does. Errors are told to those who wait and are not remembered."""

    def __init__(self, embedder: Embedder, describer: Describer, cache: EmbeddingCache) -> None:
        self._embedder = embedder
        self._describer = describer
        self._cache = cache
        self._recipes: dict[tuple[str, Task], tuple[ModelSpec, str, int]] = {}
        self._flights: dict[str, _Flight] = {}

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        """See the port; a remembered item has no timings."""
        try:
            recipe, dimension = await self._recipe(model, task, call)
        except ModelMoraError:
            dimension = 0
        if not dimension:  # what is wrong with the model, or with what it is asked for, the embedder says of each item
            return await self._embedder.embed(model, task, items, call=call, watch=watch)
        keys = [await _key(recipe, item, call) for item in items]
        results = await self._known(keys, dimension, task, watch)
        while missing := [index for index, result in enumerate(results) if result is None]:
            await self._fill(results, missing, (model, task, items, keys), call, watch)
        return [result for result in results if result is not None]

    async def _recipe(self, model: ModelSpec, task: Task, call: Call) -> tuple[str, int]:
        """What keys of this model and task have in common, and the dimension; 0 where it does not do the task."""
        kept = self._recipes.get((model.key, task))
        if kept is not None and (kept[0] is model or kept[0] == model):
            return kept[1], kept[2]
        description = await self._describer.describe(model, deadline=call.deadline)
        able = description.image if task == "embed_image" else description.text
        recipe, dimension = recipe_of(model, task, description), description.dimension if able else 0
        self._recipes[model.key, task] = (model, recipe, dimension)
        return recipe, dimension

    async def _known(
        self, keys: Sequence[str], dimension: int, task: Task, watch: Watch | None
    ) -> list[Outcome[Embedded] | None]:
        """The items that are remembered."""
        found = await self._cache.get(keys)
        made = [read(value, dimension=dimension) if value is not None else None for value in found]
        hits = sum(one is not None for one in made)
        for code, count in (("hit", hits), ("miss", len(keys) - hits)):
            if count:
                CACHED.labels(task, code).inc(count)
        if watch is not None:
            for index, one in enumerate(made):
                if one is not None:
                    watch(index, Step("done"))
        return [None if one is None else Ok(one) for one in made]

    async def _fill(
        self,
        results: list[Outcome[Embedded] | None],
        missing: Sequence[int],
        asked: tuple[ModelSpec, Task, Sequence[Content], Sequence[str]],
        call: Call,
        watch: Watch | None,
    ) -> None:
        """Has those computed that nobody has computed now, in one call, and waits for the others."""
        model, task, items, keys = asked
        leading: dict[str, list[int]] = {}
        joined: list[tuple[int, _Flight]] = []
        for index in missing:
            flight = self._flights.get(keys[index])
            if flight is not None:
                joined.append((index, flight))
            else:
                leading.setdefault(keys[index], []).append(index)
        if joined:
            CACHED.labels(task, "joined").inc(len(joined))
        if leading:
            firsts = [places[0] for places in leading.values()]
            told = _placed(watch, firsts) if watch is not None else None
            outcomes = await self._lead(model, task, [items[i] for i in firsts], list(leading), call=call, watch=told)
            for places, outcome in zip(leading.values(), outcomes, strict=True):
                for index in places:
                    results[index] = outcome
        for index, flight in joined:
            results[index] = await _joined(flight, call)

    async def _lead(
        self,
        model: ModelSpec,
        task: Task,
        items: Sequence[Content],
        keys: Sequence[str],
        *,
        call: Call,
        watch: Watch | None,
    ) -> list[Outcome[Embedded]]:
        """Computed, remembered, and told to all who wait; who waits for one that left computes it himself."""
        loop = asyncio.get_running_loop()
        flights: list[_Flight] = [loop.create_future() for _ in keys]
        self._flights.update(zip(keys, flights, strict=True))
        outcomes: list[Outcome[Embedded]] | None = None
        try:
            outcomes = await self._embedder.embed(model, task, items, call=call, watch=watch)
        finally:
            for key in keys:
                del self._flights[key]
            for flight, outcome in zip(flights, outcomes or [_LEFT] * len(flights), strict=True):
                flight.set_result(outcome)
        made = {key: written(o.value) for key, o in zip(keys, outcomes, strict=True) if isinstance(o, Ok)}
        if made:
            await self._cache.put(made)
        return outcomes


_LEFT = Failed(DeadlineExceeded("whoever had it computed left"))


async def _joined(flight: _Flight, call: Call) -> Outcome[Embedded] | None:
    """What another had computed; None where that came to nothing for reasons of his own."""
    try:
        async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
            outcome = await asyncio.shield(flight)
    except TimeoutError:
        return Failed(DeadlineExceeded("the deadline passed while the same item was being embedded for another"))
    if isinstance(outcome, Failed) and outcome.error.code in _OWN:
        return None
    return outcome


async def _key(recipe: str, item: Content, call: Call) -> str:
    if isinstance(item, Image):
        if len(item.data) > LARGE_BYTES:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(item.data).hexdigest())
            return f"{digest}:{recipe}"
        return f"{hashlib.sha256(item.data).hexdigest()}:{recipe}"
    shortened = ":truncated" if call.truncate else ""
    return f"{hashlib.sha256(item.text.encode(errors='surrogatepass')).hexdigest()}:{recipe}{shortened}"


def _placed(watch: Watch, places: Sequence[int]) -> Watch:
    return lambda index, step: watch(places[index], step)
