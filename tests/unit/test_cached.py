"""What is remembered of embeddings, what is computed once for all who ask, and what is nobody else's business."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pytest
from prometheus_client import REGISTRY

from adapters.cache.memory import MemoryCache
from modelmora.domain.cache_keys import read, recipe_of, written
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Priority, Text, Timings, Vector
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.domain.progress import Step
from modelmora.errors import DeadlineExceeded, InvalidInput, ModelLoadFailed, ModelMoraError, Overloaded
from modelmora.ports import Watch
from modelmora.usecases.cached import LARGE_BYTES, CachedEmbedder

Asking: TypeAlias = asyncio.Task[list[Outcome[Embedded]]]

MODEL = ModelSpec(name="m", version="1.0.0", type="embedding", provider="noop", source="bundled:noop")
HOW = Preprocess(resize="exact", height=2, width=2)
ABLE = Description(model="m@1.0.0", dimension=2, image=HOW, text=TextPreprocess(tokenizer="bytes", context_length=8))
PICTURE, OTHER = Image(b"picture"), Image(b"other")


def call(seconds: float = 60.0, *, truncate: bool = False, priority: Priority = "interactive") -> Call:
    return Call(request_id="r", deadline=time.monotonic() + seconds, truncate=truncate, priority=priority)


@dataclass
class Fake:
    """Embeds by counting; told, it waits, fails items or all, or cannot be described."""

    calls: list[Sequence[Content]] = field(default_factory=list)
    fails: list[ModelMoraError] = field(default_factory=list)
    raises: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    watch: Watch | None = None
    described: int = 0
    description: Description = ABLE
    unknown: ModelLoadFailed | None = None

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        self.calls.append(list(items))
        self.watch = watch
        self.asked.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.raises:
            raise self.raises.pop(0)
        if self.fails:
            error = self.fails.pop(0)
            return [Failed(error) for _ in items]
        vector = Vector(np.array([len(self.calls), 1], "<f4").tobytes())
        return [Ok(Embedded(vector, Timings(inference_ms=5), tokens=3)) for _ in items]

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        self.described += 1
        if self.unknown is not None:
            raise self.unknown
        return self.description


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def cached(fake: Fake) -> CachedEmbedder:
    return CachedEmbedder(fake, fake, MemoryCache(max_bytes=10**6, ttl_s=60))


async def pictures(
    cached: CachedEmbedder, *items: Image, seconds: float = 60, priority: Priority = "interactive"
) -> list[Outcome[Embedded]]:
    return await cached.embed(MODEL, "embed_image", items, call=call(seconds, priority=priority))


async def under_way(fake: Fake, cached: CachedEmbedder, *items: Image, **how: Any) -> Asking:
    """A request whose forward was begun, and does not end until the gate is opened."""
    fake.gate = fake.gate or asyncio.Event()
    fake.asked.clear()
    asking = asyncio.create_task(pictures(cached, *items, **how))
    await fake.asked.wait()
    return asking


async def joining(cached: CachedEmbedder, *items: Image, **how: Any) -> Asking:
    """A request that waits for what is under way."""
    asking = asyncio.create_task(pictures(cached, *items, **how))
    await asyncio.sleep(0)
    return asking


def counted(code: str) -> float:
    return REGISTRY.get_sample_value("modelmora_cache_requests_total", {"task": "embed_image", "code": code}) or 0.0


async def test_what_was_embedded_once_is_not_computed_again(fake: Fake, cached: CachedEmbedder) -> None:
    (first,) = await pictures(cached, PICTURE)
    again = await pictures(cached, OTHER, PICTURE, PICTURE)
    assert len(fake.calls) == 2
    assert fake.calls[1] == [OTHER]
    assert unwrap(again[1]).vector == unwrap(first).vector
    assert (unwrap(again[1]).timings, unwrap(again[1]).tokens) == (Timings(), 3)


async def test_what_comes_twice_in_one_request_is_computed_once_and_misses_go_together(
    fake: Fake, cached: CachedEmbedder
) -> None:
    outcomes = await pictures(cached, PICTURE, OTHER, PICTURE)
    assert fake.calls == [[PICTURE, OTHER]]
    assert outcomes[0] == outcomes[2]


async def test_texts_are_told_apart_by_whether_they_may_be_cut(fake: Fake, cached: CachedEmbedder) -> None:
    for truncate in (False, True, False):
        await cached.embed(MODEL, "embed_text", [Text("a")], call=call(truncate=truncate))
    assert len(fake.calls) == 2


async def test_another_version_precision_or_preprocessing_is_another_key() -> None:
    seen = {
        recipe_of(model, task, description, process="p")
        for model in (MODEL, replace(MODEL, version="1.0.1"), replace(MODEL, precision="bf16"))
        for task in ("embed_image", "embed_text")
        for description in (ABLE, replace(ABLE, image=replace(HOW, width=3), dimension=4))
    }
    assert len(seen) == 12


async def test_several_who_ask_at_once_have_it_computed_once(fake: Fake, cached: CachedEmbedder) -> None:
    fake.gate = asyncio.Event()
    asking = [asyncio.create_task(pictures(cached, PICTURE)) for _ in range(5)]
    await asyncio.sleep(0)
    fake.gate.set()
    answers = await asyncio.gather(*asking)
    assert len(fake.calls) == 1
    assert all(answer == answers[0] for answer in answers)


async def test_who_leaves_does_not_take_the_work_from_the_others(fake: Fake, cached: CachedEmbedder) -> None:
    leading = await under_way(fake, cached, PICTURE, OTHER)
    following = await joining(cached, OTHER)
    leading.cancel()
    await asyncio.wait([leading])
    assert fake.gate is not None
    fake.gate.set()
    assert isinstance((await following)[0], Ok)
    assert fake.calls == [[PICTURE, OTHER]]
    assert not fake.cancelled.is_set()


async def test_when_the_last_one_leaves_the_work_ends_and_who_comes_next_begins_anew(
    fake: Fake, cached: CachedEmbedder
) -> None:
    asking = [await under_way(fake, cached, PICTURE), await joining(cached, PICTURE)]
    for one in asking:
        one.cancel()
    await asyncio.wait(asking)
    fake.gate = None
    assert isinstance((await pictures(cached, PICTURE))[0], Ok)
    await fake.cancelled.wait()
    assert len(fake.calls) == 2


async def test_who_finds_the_queue_full_for_all_he_wants_does_not_fail_who_wants_less(
    fake: Fake, cached: CachedEmbedder
) -> None:
    leading = await under_way(fake, cached, PICTURE, OTHER)
    following = await joining(cached, OTHER)
    fake.raises = [Overloaded("too many at once")]
    assert fake.gate is not None
    fake.gate.set()
    with pytest.raises(Overloaded):
        await leading
    assert isinstance((await following)[0], Ok)


async def test_interactive_work_does_not_wait_for_bulk_work_but_bulk_work_for_interactive(
    fake: Fake, cached: CachedEmbedder
) -> None:
    bulk = await under_way(fake, cached, PICTURE, priority="bulk")
    quick = await under_way(fake, cached, PICTURE)
    more = await joining(cached, PICTURE, priority="bulk")
    assert fake.gate is not None
    fake.gate.set()
    assert all(isinstance(one[0], Ok) for one in await asyncio.gather(bulk, quick, more))
    assert len(fake.calls) == 2


async def test_a_short_deadline_is_its_callers_own(fake: Fake, cached: CachedEmbedder) -> None:
    fake.gate = asyncio.Event()
    leader = asyncio.create_task(pictures(cached, PICTURE))
    await fake.asked.wait()
    (late,) = await pictures(cached, PICTURE, seconds=0.01)
    assert isinstance(late, Failed)
    assert late.error.code == "deadline_exceeded"
    follower = asyncio.create_task(pictures(cached, PICTURE))
    await asyncio.sleep(0)
    fake.fails = [DeadlineExceeded("the leader's")]
    fake.gate.set()
    assert isinstance((await leader)[0], Failed)
    assert isinstance((await follower)[0], Ok)


async def test_an_error_is_told_to_all_who_wait_and_not_remembered(fake: Fake, cached: CachedEmbedder) -> None:
    fake.gate, fake.fails = asyncio.Event(), [InvalidInput("no picture")]
    asking = [asyncio.create_task(pictures(cached, PICTURE)) for _ in range(2)]
    await asyncio.sleep(0)
    fake.gate.set()
    for (outcome,) in await asyncio.gather(*asking):
        assert isinstance(outcome, Failed)
        assert outcome.error.code == "invalid_input"
    assert len(fake.calls) == 1
    assert isinstance((await pictures(cached, PICTURE))[0], Ok)


async def test_what_fails_all_is_told_to_all_who_wait_at_once(fake: Fake, cached: CachedEmbedder) -> None:
    leading = await under_way(fake, cached, PICTURE)
    following = [await joining(cached, PICTURE) for _ in range(5)]
    fake.raises = [ModelLoadFailed("broken")]
    assert fake.gate is not None
    fake.gate.set()
    with pytest.raises(ModelLoadFailed):
        await leading
    for (outcome,) in await asyncio.gather(*following):
        assert isinstance(outcome, Failed)
        assert outcome.error.code == "model_load_failed"
    assert len(fake.calls) == 1


async def test_a_defect_is_told_to_those_who_wait_without_its_details(fake: Fake, cached: CachedEmbedder) -> None:
    leading = await under_way(fake, cached, PICTURE)
    following = await joining(cached, PICTURE)
    fake.raises = [RuntimeError("secret")]
    assert fake.gate is not None
    fake.gate.set()
    with pytest.raises(RuntimeError):
        await leading
    (outcome,) = await following
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "internal"
    assert "secret" not in outcome.error.detail


async def test_what_fails_all_that_is_not_remembered_leaves_the_rest_of_the_request_alone(
    fake: Fake, cached: CachedEmbedder
) -> None:
    await pictures(cached, PICTURE)
    fake.raises = [ModelLoadFailed("gone")]
    known, other = await pictures(cached, PICTURE, OTHER)
    assert isinstance(known, Ok)
    assert isinstance(other, Failed)
    assert other.error.code == "model_load_failed"


async def test_a_model_that_cannot_be_described_or_do_it_is_left_to_the_embedder(
    fake: Fake, cached: CachedEmbedder
) -> None:
    fake.unknown = ModelLoadFailed("broken")
    await pictures(cached, PICTURE)
    fake.unknown, fake.description = None, replace(fake.description, text=None)
    for _ in range(2):
        await cached.embed(MODEL, "embed_text", [Text("a")], call=call())
    assert len(fake.calls) == 3


async def test_a_model_is_described_once_and_again_when_it_was_declared_anew(
    fake: Fake, cached: CachedEmbedder
) -> None:
    for model in (MODEL, MODEL, replace(MODEL), replace(MODEL, precision="bf16")):
        await cached.embed(model, "embed_image", [PICTURE], call=call())
    assert (fake.described, len(fake.calls)) == (2, 2)


async def test_vectors_in_numbers_that_a_runner_chose_are_not_found_by_another_process(fake: Fake) -> None:
    shared = MemoryCache(max_bytes=10**6, ttl_s=60)
    open_, declared = replace(MODEL, precision="auto"), MODEL
    for model, forwards in ((declared, 1), (open_, 2)):
        fake.calls.clear()
        for process in (CachedEmbedder(fake, fake, shared), CachedEmbedder(fake, fake, shared)):
            for _ in range(2):
                await process.embed(model, "embed_image", [PICTURE], call=call())
        assert len(fake.calls) == forwards


async def test_large_pictures_are_remembered_as_small_ones_are(fake: Fake, cached: CachedEmbedder) -> None:
    large = [Image(bytes([fill]) * (LARGE_BYTES + 1)) for fill in range(2)]
    for _ in range(2):
        await pictures(cached, *large)
    assert len(fake.calls) == 1


async def test_metrics_say_what_came_of_each_item(fake: Fake, cached: CachedEmbedder) -> None:
    codes = ("hit", "miss", "joined", "error")
    before = [counted(code) for code in codes]
    leading = await under_way(fake, cached, PICTURE, OTHER, OTHER)
    following = await joining(cached, PICTURE)
    assert fake.gate is not None
    fake.gate.set()
    await asyncio.gather(leading, following)
    await pictures(cached, PICTURE, OTHER)
    assert [counted(code) - was for code, was in zip(codes, before, strict=True)] == [2, 2, 2, 0]


async def test_what_lies_in_the_cache_and_is_not_ours_is_passed_over(fake: Fake) -> None:
    class Rubbish(MemoryCache):
        async def get(self, keys: Sequence[str]) -> list[bytes | None]:
            return [b"rubbish"] * len(keys)

    errors = counted("error")
    outcomes = await pictures(CachedEmbedder(fake, fake, Rubbish(max_bytes=1, ttl_s=1)), PICTURE)
    assert counted("error") == errors + 1
    assert isinstance(outcomes[0], Ok)
    value = written(unwrap(outcomes[0]))
    assert read(value, dimension=2) is not None
    assert read(value, dimension=3) is None
    assert read(b"X" + value[1:], dimension=2) is None


async def test_who_watches_is_told_the_last_step_of_a_remembered_item(cached: CachedEmbedder) -> None:
    """Not that it is done, which its use case says with the result."""
    told: list[tuple[int, Step]] = []
    await pictures(cached, PICTURE)
    await cached.embed(MODEL, "embed_image", [OTHER, PICTURE], call=call(), watch=lambda *step: told.append(step))
    assert told == [(1, Step("inference", 1, 1))]


async def test_who_watches_hears_of_each_place_of_an_item_and_nothing_after_leaving(
    fake: Fake, cached: CachedEmbedder
) -> None:
    told: dict[str, list[tuple[int, Step]]] = {"first": [], "second": []}
    fake.gate, half = asyncio.Event(), Step("inference", 1, 2)

    def ask(who: str, *items: Image) -> Asking:
        watch: Watch = lambda *step: told[who].append(step)  # noqa: E731
        return asyncio.create_task(cached.embed(MODEL, "embed_image", items, call=call(), watch=watch))

    first = ask("first", OTHER, PICTURE, OTHER)
    await fake.asked.wait()
    second = ask("second", PICTURE)
    await asyncio.sleep(0)
    assert fake.watch is not None
    for place in (0, 1):
        fake.watch(place, half)
    assert told == {"first": [(0, half), (2, half), (1, half)], "second": [(0, half)]}
    first.cancel()
    await asyncio.wait([first])
    fake.watch(1, half)
    assert (len(told["first"]), len(told["second"])) == (3, 2)
    fake.gate.set()
    assert isinstance((await second)[0], Ok)
