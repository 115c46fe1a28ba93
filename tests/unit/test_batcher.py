"""The batcher over real pools and misbehaving models: every item is answered exactly once, and for itself."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from modelmora.domain import priority
from modelmora.domain.batching import Lanes
from modelmora.domain.description import Description
from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.errors import ModelLoadFailed, OutOfMemory, Overloaded, ValidationFailed
from runners import batcher as module
from runners.batcher import Batcher
from runners.batching.compute import run_batch
from runners.batching.jobs import Computed, Job
from runners.batching.lanes import Patience
from runners.devices import Share
from runners.payload import Parcel
from runners.pool import Pool
from runners.provider import Tell
from tests.fakes import until
from tests.families import Family, row_of
from tests.folders import Folders


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
        self.pool = Pool(lambda _: self.family, Folders().using, share=Share(threads=1, budget_bytes=0))
        self.batcher = Batcher(self.pool)
        self.others: list[Batcher] = []
        self.answers = 0

    def on(self, lanes: int, **options: Any) -> None:
        """A device of so many lanes and cores from here on; two items are worth a lane."""
        self.others.append(self.batcher)
        self.batcher = Batcher(self.pool, lanes=Lanes(cores=lanes, limit=lanes, worth=2), **options)

    def submit(
        self, content: bytes, model: ModelSpec = A, *, within_s: float = 60.0, **options: Any
    ) -> tuple[Job, Answer]:
        array = np.frombuffer(content, np.uint8)
        return self.submit_array(array, model, within_s=within_s, **options)

    def submit_array(
        self,
        array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
        model: ModelSpec = A,
        *,
        within_s: float = 60.0,
        **options: Any,
    ) -> tuple[Job, Answer]:
        future: Answer = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome[Computed]) -> None:
            self.answers += 1
            future.set_result(outcome)  # raises when answered twice

        until_ = time.monotonic() + within_s
        job = Job(spec=model, task="embed_text", payload=array, deadline=until_, done=done, **options)
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
    return [
        np.frombuffer(cast(bytes, o.value.body), "<f4").tolist() if isinstance(o, Ok) else o.error.code
        for o in outcomes
    ]


@pytest.fixture
async def its() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.family.running.open()
    fixture.family.loading.open()
    for batcher in (fixture.batcher, *fixture.others):
        await batcher.close()
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

    code = {RuntimeError: "internal", MemoryError: "out_of_memory", ValidationFailed: "validation"}[type(cause)]
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
    jobs[1][0].leave()
    its.family.running.open()

    answers = await settled([first, jobs[0][1], jobs[2][1]])

    assert answers == [row_of(b"first"), row_of(b"stays"), row_of(b"stays too")]
    assert b"leaves" not in its.family.computed
    assert not jobs[1][1].done()


async def test_a_caller_who_leaves_while_computed_is_not_answered(its: Fixture) -> None:
    its.family.running.close()
    job, answer = its.submit(b"first")
    await until(its.family.running.reached.is_set)
    job.leave()
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


async def test_an_unload_during_the_load_for_queued_items_ends_and_they_are_answered(its: Fixture) -> None:
    its.family.loading.close()
    _, answer = its.submit(b"a")
    await until(its.family.loading.reached.is_set)
    unloading = asyncio.create_task(its.pool.unload(A))
    await asyncio.sleep(0)
    its.family.loading.open()

    async with asyncio.timeout(10):
        await unloading
    assert await settled([answer]) == [row_of(b"a")]
    assert (its.family.loads, its.family.closed) == (["a", "a"], ["a"])


async def test_an_unload_while_the_loaded_model_waits_for_a_lane_ends(its: Fixture) -> None:
    first = await its.busy()
    _, other = its.submit(b"other", B)
    await until(lambda: its.pool.peek(B) is not None)
    unloading = asyncio.create_task(its.pool.unload(B))

    async with asyncio.timeout(10):
        await unloading
    its.family.running.open()
    assert await settled([first, other]) == [row_of(b"first"), row_of(b"other")]


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


async def test_one_bad_item_costs_a_counted_number_of_extra_forwards_and_runs_alone_the_next_time(its: Fixture) -> None:
    model = spec("a", max_batch=16)
    await its.ask(b"first", model=model)
    its.family.bad = {b"bad": RuntimeError("always")}
    contents = [b"bad" if i == 5 else bytes([65 + i]) for i in range(16)]

    answers = await its.ask(*contents, model=model)

    assert answers.count("internal") == 1
    assert len(its.family.batches) - 1 <= 1 + 2 * math.ceil(math.log2(16))

    its.family.batches.clear()
    again = await its.ask(*contents, model=model)
    assert again == answers
    assert sorted(len(batch) for batch in its.family.batches) == [1, 15]
    assert [b"bad"] in its.family.batches


async def test_a_row_that_is_not_finite_fails_alone_without_another_forward(its: Fixture) -> None:
    its.family.strange = {b"odd"}

    assert await its.ask(b"odd", b"b", b"c") == ["internal", row_of(b"b"), row_of(b"c")]
    assert len(its.family.batches) == 1


async def test_a_batch_too_large_for_the_memory_is_halved_and_the_size_remembered(its: Fixture) -> None:
    model = spec("a", max_batch=8)
    its.family.room = 3
    contents = [bytes([65 + i]) for i in range(8)]

    assert await its.ask(*contents, model=model) == [row_of(c) for c in contents]
    its.family.batches.clear()
    assert await its.ask(*contents, model=model) == [row_of(c) for c in contents]
    assert max(len(batch) for batch in its.family.batches) <= 3


async def test_one_item_too_large_for_the_memory_is_told_so(its: Fixture) -> None:
    its.family.room = 0

    assert await its.ask(b"a", b"b") == ["out_of_memory"] * 2
    its.family.room = None
    assert await its.ask(b"c") == [row_of(b"c")]


async def test_one_item_that_takes_all_memory_does_not_make_the_batches_of_others_small(its: Fixture) -> None:
    model = spec("a", max_batch=8)
    its.family.bad = {b"huge": MemoryError()}
    await its.ask(*[b"huge" if i == 3 else bytes([65 + i]) for i in range(8)], model=model)
    its.family.batches.clear()

    await its.ask(*[bytes([65 + i]) for i in range(8)], model=model)

    assert [len(batch) for batch in its.family.batches] == [8]


async def test_a_crowd_is_computed_side_by_side_on_one_thread_each(its: Fixture) -> None:
    its.on(2)
    await its.ask(b"load the model")
    its.family.running.close()
    answers = [its.submit(bytes([65 + i]))[1] for i in range(8)]
    await until(lambda: its.family.together == 2)
    its.family.running.open()

    assert await settled(answers) == [row_of(bytes([65 + i])) for i in range(8)]
    assert its.family.threads[0] == 2  # the lone first one had both
    assert set(its.family.threads[1:3]) == {1}


async def test_interactive_items_overtake_bulk_a_counted_number_of_times(its: Fixture) -> None:
    one = spec("a", max_batch=1)
    its.family.running.close()
    first = its.submit(b"first", one)[1]
    await until(its.family.running.reached.is_set)
    bulk = its.submit(b"bulk", one, bulk=True)[1]
    others = [its.submit(b"%d" % i, one)[1] for i in range(8)]
    its.family.running.open()

    await settled([first, bulk, *others])
    order = [batch[0] for batch in its.family.batches]
    assert order.index(b"bulk") == 1 + priority.PATIENCE


async def test_an_item_that_must_be_alone_is(its: Fixture) -> None:
    first = await its.busy()
    answers = [its.submit(b"a")[1], its.submit(b"b", alone=True)[1], its.submit(b"c")[1]]
    its.family.running.open()

    await settled([first, *answers])
    assert sorted(its.family.batches[1:]) == [[b"a", b"c"], [b"b"]]


async def test_items_that_must_be_alone_are_not_even_on_two_lanes_together(its: Fixture) -> None:
    its.on(2)
    await its.ask(b"load the model")
    its.family.most_together = 0

    await settled([its.submit(content, alone=True)[1] for content in (b"a", b"b", b"c", b"d")])

    assert its.family.most_together == 1


async def test_a_forward_that_hangs_is_answered_and_reported(its: Fixture) -> None:
    reports: list[bool] = []
    its.on(1, patience=Patience(hang_s=0.05), on_hang=lambda: reports.append(True))
    its.family.running.close()

    assert await its.ask(b"a", b"b") == ["internal"] * 2
    assert reports == [True]


def test_patience_grows_with_the_predicted_time_and_has_bounds() -> None:
    patience = Patience(hang_s=300.0, least_s=30.0, times=20.0)
    assert [patience.of(s) for s in (0.0, 0.1, 5.0, 60.0)] == [300.0, 30.0, 100.0, 300.0]


async def test_who_asks_is_told_how_far_the_item_is(its: Fixture) -> None:
    steps: list[Step] = []

    await settled([its.submit(b"a", tell=steps.append)[1]])

    stages = [step.stage for step in steps]
    assert list(dict.fromkeys(stages)) == ["queued", "loading", "inference"]
    assert steps[-1] == Step("inference", 2, 2)


async def test_a_caller_who_left_makes_room_in_the_queue(its: Fixture) -> None:
    small = spec("a", queue=2)
    its.family.running.close()
    running = its.submit(b"running", small)[1]
    await until(its.family.running.reached.is_set)
    leaving, _ = its.submit(b"1", small)
    staying = its.submit(b"2", small)[1]

    leaving.leave()
    late = its.submit(b"3", small)[1]

    assert its.batcher.queued() == 2
    its.family.running.open()
    assert await settled([running, staying, late]) == [row_of(c) for c in (b"running", b"2", b"3")]


async def test_every_caller_gets_the_own_row_bit_for_bit_whatever_fails_beside_it(its: Fixture) -> None:
    """Bad items of every kind among good ones, on two lanes, again and again: no row is ever swapped."""
    its.on(2)
    model = spec("a", max_batch=8)
    its.family.bad = {b"raise": RuntimeError("x")}
    its.family.strange = {b"odd"}
    its.family.room = 5
    draw = random.Random(0)
    contents = [draw.choice([b"raise", b"odd", b"", b"", b"", b""]) + b"%d" % draw.randrange(10**6) for _ in range(400)]

    answers = await its.ask(*contents, model=model)

    for content, answer in zip(contents, answers, strict=True):
        bad = content.startswith((b"raise", b"odd"))
        assert answer == ("internal" if bad else row_of(content))


class Rowed:
    """A model of tensors that takes so many rows at once and no more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.description = Description(model="rowed@1.0.0")

    def predict(self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None) -> list[Parcel]:
        if sum(parcel.rows for parcel in batch) > self.room:
            raise OutOfMemory("too many rows")
        return list(batch)


def test_what_fits_after_running_out_of_memory_is_counted_in_rows() -> None:
    batch = [Parcel(tensors={"x": np.zeros((16, 1))}, rows=16) for _ in range(4)]

    ran = run_batch(cast(Any, Rowed(room=32)), "predict", batch, threads=1)

    assert all(isinstance(outcome, Ok) for outcome in ran.outcomes)
    assert ran.fits == 32
