"""The pool over long histories: what it holds and evicts is what one would reckon on paper, whatever comes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners import devices
from tests.families import GIB, Family
from tests.pools import A, B, PoolFixture, spec


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returning memory to the system takes most of the time, and is not what this is about."""
    monkeypatch.setattr(devices, "release", lambda: None)


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


async def test_two_loads_and_an_unload_at_once_a_thousand_times(its: PoolFixture) -> None:
    its.room(1.5)

    async with asyncio.timeout(100):
        for number in range(1000):
            changes = [its.pool.load(A), its.pool.unload(A), its.pool.load(A)]
            if number % 3 == 0:
                changes.append(its.pool.load(B))  # only one of them fits
            await asyncio.gather(*(changes[(number + i) % len(changes)] for i in range(len(changes))))

            family, states = its.family, its.states()
            in_memory = {name: family.loads.count(name) - family.closed.count(name) for name in states}
            assert in_memory == {name: int(state == "loaded") for name, state in states.items()}
            assert its.pool.held_bytes() == sum(in_memory.values()) * GIB
            family.loads.clear()
            family.closed.clear()
            family.loads += [name for name, count in in_memory.items() if count]
    assert all(h.in_flight == 0 for h in its.pool.holdings())


Verb = Literal["use", "hold", "release"]
MODELS = tuple(spec(name) for name in "abcdef")


@dataclass
class Paper:
    """An LRU of models of these sizes within a budget, on paper: who is held stays, who was used longest ago goes."""

    sizes: Sequence[int]
    budget: int
    held: Counter[int] = field(default_factory=Counter)
    order: OrderedDict[int, None] = field(default_factory=OrderedDict)
    evicted: list[int] = field(default_factory=list)

    def can(self, verb: Verb, model: int) -> bool:
        """Whether it is done at once, without waiting for somebody to release."""
        others = sum(self.sizes[other] for other, count in self.held.items() if count and other != model)
        return self.held[model] > 0 if verb == "release" else others + self.sizes[model] <= self.budget

    def touch(self, model: int) -> None:
        if model not in self.order:
            for old in list(self.order):
                if sum(self.sizes[one] for one in self.order) + self.sizes[model] <= self.budget:
                    break
                if not self.held[old]:
                    del self.order[old]
                    self.evicted.append(old)
        self.order[model] = None
        self.order.move_to_end(model)


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    budget=st.integers(4, 12),
    log=st.lists(
        st.tuples(st.sampled_from(["use", "use", "use", "hold", "release"]), st.integers(0, 5)),
        min_size=60,
        max_size=160,
    ),
)
def test_evictions_are_an_lru_replay_of_the_log_but_for_what_is_held(
    sizes: list[int], budget: int, log: list[tuple[Verb, int]]
) -> None:
    paper = Paper(sizes, budget)

    async def replay() -> None:
        its = PoolFixture()
        its.family = Family(weights={spec.name: size * GIB for spec, size in zip(MODELS, sizes, strict=True)})
        its.room(budget, metered=True)
        leases: dict[int, list[contextlib.AsyncExitStack]] = {model: [] for model in range(6)}
        for verb, model in log:
            if not paper.can(verb, model):
                continue
            if verb == "release":
                paper.held[model] -= 1
                await leases[model].pop().aclose()
                continue
            paper.touch(model)
            lease = contextlib.AsyncExitStack()
            await lease.enter_async_context(its.pool.lease(MODELS[model]))
            if verb == "hold":
                paper.held[model] += 1
                leases[model].append(lease)
            else:
                await lease.aclose()
            assert its.loaded() == {MODELS[one].name for one in paper.order}
            assert its.pool.held_bytes() == sum(sizes[one] for one in paper.order) * GIB <= budget * GIB
        assert its.family.closed == [MODELS[one].name for one in paper.evicted]
        await its.close()

    asyncio.run(asyncio.wait_for(replay(), 60))
