"""What is remembered of embeddings, what is computed once for all who ask, and what is nobody else's business."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from adapters.cache.memory import MemoryCache
from modelmora.domain.cache_keys import read, recipe_of, written
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Text, Timings, Vector
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.domain.progress import Step
from modelmora.errors import DeadlineExceeded, InvalidInput, ModelLoadFailed
from modelmora.ports import Watch
from modelmora.usecases.cached import CachedEmbedder

MODEL = ModelSpec(name="m", version="1.0.0", type="embedding", provider="noop", source="bundled:noop")
HOW = Preprocess(resize="exact", height=2, width=2)
ABLE = Description(model="m@1.0.0", dimension=2, image=HOW, text=TextPreprocess(tokenizer="bytes", context_length=8))
PICTURE, OTHER = Image(b"picture"), Image(b"other")


def call(seconds: float = 60.0, *, truncate: bool = False) -> Call:
    return Call(request_id="r", deadline=time.monotonic() + seconds, truncate=truncate)


@dataclass
class Fake:
    """Embeds by counting; told, it waits, fails or cannot be described."""

    calls: list[Sequence[Content]] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    description: Description = ABLE
    unknown: ModelLoadFailed | None = None

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        self.calls.append(list(items))
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            error = self.fails.pop(0)
            return [Failed(error) for _ in items]  # type: ignore[arg-type] # ours
        vector = Vector(np.array([len(self.calls), 1], "<f4").tobytes())
        return [Ok(Embedded(vector, Timings(inference_ms=5), tokens=3)) for _ in items]

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        if self.unknown is not None:
            raise self.unknown
        return self.description


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def cached(fake: Fake) -> CachedEmbedder:
    return CachedEmbedder(fake, fake, MemoryCache(max_bytes=10**6, ttl_s=60))


async def pictures(cached: CachedEmbedder, *items: Image, seconds: float = 60) -> list[Outcome[Embedded]]:
    return await cached.embed(MODEL, "embed_image", items, call=call(seconds))


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
        recipe_of(model, task, description)
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


async def test_when_the_first_one_leaves_the_next_one_computes(fake: Fake, cached: CachedEmbedder) -> None:
    fake.gate = asyncio.Event()
    first, second = (asyncio.create_task(pictures(cached, PICTURE)) for _ in range(2))
    await fake.asked.wait()
    first.cancel()
    await asyncio.wait([first])
    fake.gate.set()
    assert isinstance((await second)[0], Ok)
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


async def test_a_model_that_cannot_be_described_or_do_it_is_left_to_the_embedder(
    fake: Fake, cached: CachedEmbedder
) -> None:
    fake.unknown = ModelLoadFailed("broken")
    await pictures(cached, PICTURE)
    fake.unknown, fake.description = None, replace(fake.description, text=None)
    for _ in range(2):
        await cached.embed(MODEL, "embed_text", [Text("a")], call=call())
    assert len(fake.calls) == 3


async def test_what_lies_in_the_cache_and_is_not_ours_is_passed_over(fake: Fake) -> None:
    class Rubbish(MemoryCache):
        async def get(self, keys: Sequence[str]) -> list[bytes | None]:
            return [b"rubbish"] * len(keys)

    outcomes = await pictures(CachedEmbedder(fake, fake, Rubbish(max_bytes=1, ttl_s=1)), PICTURE)
    assert isinstance(outcomes[0], Ok)
    value = written(unwrap(outcomes[0]))
    assert read(value, dimension=2) is not None
    assert read(value, dimension=3) is None
    assert read(b"X" + value[1:], dimension=2) is None


async def test_who_watches_is_told_that_a_remembered_item_is_done(cached: CachedEmbedder) -> None:
    told: list[tuple[int, Step]] = []
    await pictures(cached, PICTURE)
    watch: Watch = lambda index, step: told.append((index, step))  # noqa: E731
    await cached.embed(MODEL, "embed_image", [OTHER, PICTURE], call=call(), watch=watch)
    assert (1, Step("done")) in told
