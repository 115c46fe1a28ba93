"""The batcher over real pools and misbehaving models: every item is answered exactly once, and for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import ModelLoadFailed, Overloaded, ValidationFailed
from runners import batcher as module
from runners.batcher import Batcher, Computed, Job
from runners.devices import Share
from runners.pool import Pool
from tests.fakes import until
from tests.families import Family, row_of


def spec(name: str = "a", *, max_batch: int = 4, queue: int = 1024) -> ModelSpec:
    batching = Batching(max_batch=max_batch, max_wait_ms=5.0, queue=queue)
    return ModelSpec(
        name=name, version="1.0.0", type="embedding", provider="family", source="bundled:noop", batching=batching
    )


A, B = spec("a"), spec("b")


class Fixture:
    """A batcher over a pool of one family; answers are collected, and counted."""

    def __init__(self) -> None:
        self.family = Family()
        self.pool = Pool(lambda _: self.family, lambda _: None, share=Share(threads=1, budget_bytes=0))
        self.batcher = Batcher(self.pool)
        self.answers = 0

    def submit(self, content: bytes, model: ModelSpec = A, *, within_s: float = 60.0) -> tuple[Job, Answer]:
        array = np.frombuffer(content, np.uint8)
        return self.submit_array(array, model, within_s=within_s)

    def submit_array(
        self, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], model: ModelSpec = A, *, within_s: float = 60.0
    ) -> tuple[Job, Answer]:
        future: Answer = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome[Computed]) -> None:
            self.answers += 1
            future.set_result(outcome)  # raises when answered twice

        job = Job(spec=model, task="embed_text", array=array, deadline=time.monotonic() + within_s, done=done)
        self.batcher.submit(job)
        return job, future

    async def ask(self, *contents: bytes, model: ModelSpec = A) -> list[list[float] | str]:
        return await settled([self.submit(content, model)[1] for content in contents])

    async def busy(self) -> Answer:
        """Keeps the lane busy with one item until the running gate opens."""
        self.family.running.close()
        _, answer = self.submit(b"first")
        await until(self.family.running.reached.is_set)
        return answer


Answer = asyncio.Future[Outcome[Computed]]


async def settled(answers: list[Answer]) -> list[list[float] | str]:
    """Each item's vector, or its error's code."""
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*answers)
    return [np.frombuffer(o.value.vector, "<f4").tolist() if isinstance(o, Ok) else o.error.code for o in outcomes]


@pytest.fixture
async def its() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.family.running.open()
    fixture.family.loading.open()
    await fixture.batcher.close()
    await fixture.pool.close()


async def test_everybody_gets_the_own_vector_and_no_batch_is_too_large(its: Fixture) -> None:
    contents = [bytes([i]) * (i + 1) for i in range(50)]

    assert await its.ask(*contents) == [row_of(content) for content in contents]
    assert (its.answers, sorted(its.family.computed)) == (50, sorted(contents))
    assert max(len(batch) for batch in its.family.batches) == 4


async def test_those_who_wait_together_are_computed_together(its: Fixture) -> None:
    first = await its.busy()
    others = [its.submit(content)[1] for content in (b"1", b"2", b"3", b"4")]
    its.family.running.open()

    await settled([first, *others])
    assert its.family.batches == [[b"first"], [b"1", b"2", b"3", b"4"]]


@pytest.mark.parametrize("cause", [RuntimeError("secret"), MemoryError(), ValidationFailed("no such token")])
@pytest.mark.parametrize("position", [0, 3, 7])
async def test_an_item_that_raises_fails_alone(position: int, cause: Exception, its: Fixture) -> None:
    model = spec("a", max_batch=8)
    contents = [bytes([65 + i]) for i in range(8)]
    its.family.bad = {contents[position]: cause}

    answers = await its.ask(*contents, model=model)

    code = cause.code if isinstance(cause, ValidationFailed) else "internal"
    assert answers == [code if i == position else row_of(c) for i, c in enumerate(contents)]


async def test_a_defect_in_a_model_shows_nothing_of_the_inside(its: Fixture) -> None:
    its.family.bad = {b"x": RuntimeError("secret")}

    outcome = await its.submit(b"x")[1]

    assert "secret" not in repr(outcome)


async def test_a_batch_of_bad_items_answers_each(its: Fixture) -> None:
    its.family.bad = {b"": RuntimeError("always")}

    assert await its.ask(*[b"x"] * 10) == ["internal"] * 10
    its.family.bad = {}
    assert await its.ask(b"y") == [row_of(b"y")]


async def test_a_model_that_answers_too_few_rows_is_not_believed(its: Fixture) -> None:
    its.family.short = 0
    assert await its.ask(b"a", b"b", b"c") == ["internal"] * 3

    its.family.short = 1  # alone it is right
    assert await its.ask(b"a", b"bb", b"ccc") == [row_of(b"a"), row_of(b"bb"), row_of(b"ccc")]


async def test_callers_who_left_are_dropped_before_compute_and_their_neighbours_are_not(its: Fixture) -> None:
    first = await its.busy()
    jobs = [its.submit(content) for content in (b"stays", b"leaves", b"stays too")]
    jobs[1][0].gone = True
    its.family.running.open()

    answers = await settled([first, jobs[0][1], jobs[2][1]])

    assert answers == [row_of(b"first"), row_of(b"stays"), row_of(b"stays too")]
    assert b"leaves" not in its.family.computed
    assert not jobs[1][1].done()


async def test_a_caller_who_leaves_while_computed_is_not_answered(its: Fixture) -> None:
    its.family.running.close()
    job, answer = its.submit(b"first")
    await until(its.family.running.reached.is_set)
    job.gone = True
    its.family.running.open()

    assert await its.ask(b"next") == [row_of(b"next")]
    assert (its.answers, answer.done()) == (1, False)


async def test_a_deadline_that_passes_in_the_queue_is_told_and_nothing_computed(its: Fixture) -> None:
    first = await its.busy()
    job, late = its.submit(b"late", within_s=0.01)
    _, early = its.submit(b"early")
    await until(lambda: time.monotonic() > job.deadline)
    its.family.running.open()

    assert await settled([first, late, early]) == [row_of(b"first"), "deadline_exceeded", row_of(b"early")]
    assert b"late" not in its.family.computed


async def test_a_deadline_that_passes_while_the_model_loads_is_told_at_once(its: Fixture) -> None:
    its.family.loading.close()
    _, late = its.submit(b"late", within_s=0.05)
    _, patient = its.submit(b"patient")

    assert await settled([late]) == ["deadline_exceeded"]
    assert not patient.done()

    its.family.loading.open()
    assert await settled([patient]) == [row_of(b"patient")]
    assert its.family.computed == [b"patient"]


async def test_a_full_queue_answers_at_once_and_says_when_to_come_back(its: Fixture) -> None:
    small = spec("a", queue=3)
    its.family.running.close()
    _, running = its.submit(b"running", small)
    await until(its.family.running.reached.is_set)
    queued = [its.submit(content, small)[1] for content in (b"1", b"2", b"3")]

    _, refused = its.submit(b"4", small)

    outcome = refused.result()
    assert not isinstance(outcome, Ok)
    assert isinstance(outcome.error, Overloaded)
    assert (outcome.error.retry_after_s or 0) >= 1
    assert its.batcher.queued() == 3
    its.family.running.open()
    assert await settled([running, *queued]) == [row_of(c) for c in (b"running", b"1", b"2", b"3")]


async def test_models_and_shapes_are_never_mixed(its: Fixture) -> None:
    first = await its.busy()
    texts = [its.submit(b"12345678", model)[1] for model in (A, B)]
    shapes = [(2, 4, 1), (4, 2, 1), (2, 4, 1)]
    images = [its.submit_array(np.full(shape, i, np.uint8))[1] for i, shape in enumerate(shapes)]
    its.family.running.open()

    await settled([first, *texts, *images])
    assert sorted(len(batch) for batch in its.family.batches) == [1, 1, 1, 1, 2]
    assert [bytes(8), bytes([2]) * 8] in its.family.batches


async def test_a_model_that_cannot_be_loaded_tells_everybody_and_the_next_caller_tries_again(its: Fixture) -> None:
    its.family.load_errors = [ModelLoadFailed("no such folder")]

    assert await its.ask(b"a", b"b", b"c") == ["model_load_failed"] * 3
    assert await its.ask(b"d") == [row_of(b"d")]
    assert its.family.loads == ["a", "a"]


async def test_a_model_that_was_unloaded_is_loaded_for_the_next_item(its: Fixture) -> None:
    await its.ask(b"a")
    await its.pool.unload(A)

    assert await its.ask(b"b") == [row_of(b"b")]
    assert its.family.loads == ["a", "a"]


async def test_an_unload_comes_between_batches_of_a_busy_queue(its: Fixture) -> None:
    first = await its.busy()
    others = [its.submit(content)[1] for content in (b"1", b"2")]
    unloading = asyncio.create_task(its.pool.unload(A))
    await until(lambda: its.pool.holdings()[0].state == "unloading")
    its.family.running.open()

    assert await settled([first, *others]) == [row_of(c) for c in (b"first", b"1", b"2")]
    await unloading
    assert (its.family.loads, its.family.closed) == (["a", "a"], ["a"])


async def test_a_queue_goes_away_when_idle_and_comes_back(its: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_QUEUE_S", 0.01)
    await its.ask(b"a")
    await until(lambda: not its.batcher._queues)

    assert await its.ask(b"b") == [row_of(b"b")]


async def test_a_model_is_never_run_beside_its_own_work(its: Fixture) -> None:
    first = await its.busy()
    async with its.pool.lease(A) as loaded:
        warming = [
            asyncio.create_task(its.batcher.run_alone(loaded, "embed_text", [loaded.sample("embed_text")] * 2))
            for _ in range(3)
        ]
        queued = its.submit(b"queued")[1]
        await asyncio.sleep(0.02)  # time for a second run to begin, were it allowed
        its.family.running.open()
        await asyncio.gather(*warming)

    await settled([first, queued])
    assert its.family.most_together == 1
    assert its.family.batches.count([b"sample"] * 2) == 3


async def test_the_time_in_the_queue_and_in_the_batch_is_told(its: Fixture) -> None:
    first = await its.busy()
    _, second = its.submit(b"second")
    await asyncio.sleep(0.05)
    its.family.running.open()

    outcomes = await asyncio.gather(first, second)

    assert all(isinstance(outcome, Ok) for outcome in outcomes)
    times = [o.value for o in outcomes if isinstance(o, Ok)]
    assert times[0].inference_ms >= 50 > times[0].queue_ms >= 0
    assert times[1].queue_ms >= 50


async def test_closing_answers_who_waits_who_is_computed_and_who_comes_later(its: Fixture) -> None:
    running = await its.busy()
    waiting = [its.submit(content)[1] for content in (b"1", b"2")]
    assert its.batcher.busy()

    await its.batcher.close()
    later = its.submit(b"later")[1]

    assert await settled([running, *waiting, later]) == ["overloaded"] * 4
    assert its.answers == 4


async def test_closing_while_the_model_loads_answers_who_waits(its: Fixture) -> None:
    its.family.loading.close()
    _, waiting = its.submit(b"1")
    await until(its.family.loading.reached.is_set)

    await its.batcher.close()

    assert await settled([waiting]) == ["overloaded"]
