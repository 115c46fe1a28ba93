"""Many questions about many pictures over the real hop: who encodes, who waits, what ends them all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelmora.domain.inference import Image
from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Everything, Point, Prompt, Segmented
from modelmora.errors import DeadlineExceeded, InternalError, OutOfMemory, Overloaded
from runners.devices import Share
from runners.inputs import everything
from runners.networks.sam.forward import Sam
from runners.payload import Parcel
from runners.sam import SamProvider
from runners.segmenting import RunnerSegmenter
from tests.doors.hop import Hop, call
from tests.doors.test_hop_segment import OPTIONS, PHOTOGRAPH, PROMPTS, encodings, errors, file_of, loaded_in, value
from tests.fakes import until
from tests.models import sams

PLACE = 256 * 16 * 16 * 4
"""What the embedding of a picture takes in the small network."""

GRID = Everything(points_per_side=4, min_score=0.0, min_stability=0.0)
PICTURES = [file_of(PHOTOGRAPH[: 60 + number]) for number in range(4)]
Opening = Callable[..., AbstractAsyncContextManager["Table"]]


class Table:
    """A segmenter, the runner it asks, and the model in it."""

    def __init__(self, hop: Hop, spec: ModelSpec, model: Sam) -> None:
        self.hop = hop
        self.model = model
        self.segmenter = RunnerSegmenter(hop.errands)
        self.encoded = encodings(model)
        self._spec = spec

    def parts(self, picture: Image, asked: Any = PROMPTS, *, within_s: float = 30.0, options: Any = OPTIONS) -> Any:
        return self.segmenter.segment(self._spec, picture, asked, options=options, call=call(within_s=within_s))

    async def ask(self, picture: Image, asked: Any = PROMPTS, **more: Any) -> dict[int, Outcome[Segmented]]:
        return {index: outcome async for index, outcome in self.parts(picture, asked, **more)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sams.hub_like(tmp_path_factory.mktemp("sam"), sams.build(256))


@pytest.fixture
def opening(folder: Path, tmp_path: Path) -> Opening:
    """A runner whose model has room for so many pictures, on so many lanes."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)

    @asynccontextmanager
    async def opened(*, places: int = 16, lanes: int = 1, queue: int = 64) -> AsyncIterator[Table]:
        config, batching = {"cache": places * PLACE}, Batching(queue=queue)
        spec = sams.spec(name="own", source="bundled:own", config=config, batching=batching)
        async with Hop(tmp_path, spec) as hop:
            hop._share = Share(threads=lanes, budget_bytes=0)
            yield Table(hop, spec, await loaded_in(await hop.host(), spec))

    return opened


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end in any case: a thread that waits for it would stay."""
    event = threading.Event()
    yield event
    event.set()


async def test_more_pictures_than_fit_are_still_encoded_once_each(opening: Opening) -> None:
    async with opening(places=2) as table:
        most = list[int]()
        table.model._network.mask_decoder.register_forward_hook(lambda *_: most.append(table.model.pictures.held_bytes))

        answers = await asyncio.gather(*(table.ask(picture) for picture in PICTURES))

        assert [errors(answer) for answer in answers] == [{}] * 4
        assert len(table.encoded) == 4
        assert max(most) <= 2 * PLACE


async def amid_a_sitting(table: Table, alone: Image) -> dict[int, Outcome[Segmented]]:
    """One question about a picture while another has the only place; a third, with more questions, waits for it in vain
    and the sitting goes on. What came of the one question."""
    async with aclosing(table.parts(PICTURES[0], PROMPTS * 3)) as long:
        await anext(long)
        answer = await table.ask(alone, PROMPTS[:1])
        waiting = await table.ask(PICTURES[2], PROMPTS, within_s=0.5)
        rest = [outcome async for _, outcome in long]
    assert {code for code, _ in errors(waiting).values()} == {"deadline_exceeded"}
    assert len(waiting) == len(PROMPTS)
    assert all(isinstance(outcome, Ok) for outcome in rest)
    return answer


async def test_a_picture_with_one_question_waits_for_no_place_and_takes_none(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.batching.sittings.SITTING_S", 1_000.0)
    async with opening(places=1) as table:
        assert errors(await amid_a_sitting(table, PICTURES[1])) == {}
        assert len(table.encoded) == 2
        assert errors(await table.ask(PICTURES[2])) == {}


async def test_a_single_question_does_not_end_anothers_sitting(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.batching.sittings.SITTING_S", 1_000.0)
    async with opening(places=1) as table:
        assert errors(await amid_a_sitting(table, PICTURES[0])) == {}
        assert len(table.encoded) == 1


async def test_who_pauses_loses_the_place_to_who_waits_and_gets_the_rest_all_the_same(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.batching.sittings.SITTING_S", 0.05)
    async with opening(places=1) as table:
        paused = table.parts(PICTURES[0], PROMPTS * 3)
        async with aclosing(paused):
            await anext(paused)

            assert errors(await table.ask(PICTURES[1])) == {}

            rest = [outcome async for _, outcome in paused]
        assert len(rest) == 3 * len(PROMPTS) - 1
        assert all(isinstance(outcome, Ok) for outcome in rest)


async def test_who_leaves_makes_way_for_who_waits(opening: Opening) -> None:
    async with opening(places=1) as table:
        leaving = table.parts(PICTURES[0], PROMPTS * 5)
        await anext(leaving)
        waiting = asyncio.create_task(table.ask(PICTURES[1]))

        await leaving.aclose()

        assert errors(await waiting) == {}


async def test_who_waits_for_the_same_picture_holds_no_lane(opening: Opening, gate: threading.Event) -> None:
    async with opening(lanes=2) as table:
        entered, seen = threading.Event(), list[int]()

        def held(_: Any, given: Any) -> None:
            seen.append(0)
            if len(seen) == 1:
                entered.set()
                gate.wait(30)

        table.model._network.image_encoder.register_forward_pre_hook(held)
        same = [asyncio.create_task(table.ask(PICTURES[0], PROMPTS[:1])) for _ in range(5)]
        await until(entered.is_set)
        await until(lambda: sum(len(link.open) for link in table.hop.fleet.links("default")) == 5)

        other = await table.ask(PICTURES[1], PROMPTS[:1], within_s=10.0)

        assert errors(other) == {}
        assert not any(task.done() for task in same)
        gate.set()
        assert [errors(answer) for answer in await asyncio.gather(*same)] == [{}] * 5
        assert len(table.encoded) == 2


async def test_a_queue_is_full_by_all_pictures_together(opening: Opening, gate: threading.Event) -> None:
    async with opening(queue=2) as table:
        entered = threading.Event()

        def held(*_: Any) -> None:
            entered.set()
            gate.wait(30)

        table.model._network.image_encoder.register_forward_pre_hook(held)
        asked = [asyncio.create_task(table.ask(PICTURES[0], PROMPTS[:1]))]
        await until(entered.is_set)
        asked += [asyncio.create_task(table.ask(picture, PROMPTS[:1])) for picture in PICTURES[1:3]]
        await until(lambda: table.hop.hosts[0].batcher.queued() == 2)

        refused = await table.ask(PICTURES[3], PROMPTS[:1])

        assert errors(refused) == {0: ("overloaded", None)}
        gate.set()
        assert [errors(answer) for answer in await asyncio.gather(*asked)] == [{}] * 3
        assert errors(await table.ask(PICTURES[3], PROMPTS[:1])) == {}
        await until(lambda: not table.hop.hosts[0].batcher._queues)


async def test_whoever_comes_and_goes_nothing_is_left_behind(opening: Opening) -> None:
    async with opening(places=2, lanes=2) as table:

        async def visit(number: int) -> int:
            """Takes some answers and leaves, or all; every fifth has hardly any time."""
            asked = GRID if number % 4 == 0 else PROMPTS[: 1 + number % len(PROMPTS)]
            within_s = 0.05 if number % 5 == 0 else 30.0
            parts, seen = table.parts(PICTURES[number % 3 + number % 2], asked, within_s=within_s), 0
            async with aclosing(parts):
                async for _, outcome in parts:
                    seen += isinstance(outcome, Ok)
                    if number % 3 == 0 and seen > number % 7:
                        break
            return seen

        visits = await asyncio.gather(*(visit(number) for number in range(40)), return_exceptions=True)

        assert all(isinstance(one, int | DeadlineExceeded) for one in visits), visits
        assert [one for number, one in enumerate(visits) if number % 5 and number % 4 and one == 0] == []
        batcher, pictures = table.hop.hosts[0].batcher, table.model.pictures
        await until(lambda: not batcher.busy() and not pictures._reserved)
        await until(lambda: not batcher._queues)
        assert 0 < pictures.held_bytes <= 2 * PLACE
        assert (table.hop.errands._in_flight, table.segmenter._allowance.taken) == (0, 0)
        assert not [item for link in table.hop.fleet.links("default") for item in link.open]


async def test_a_picture_too_large_for_the_memory_is_tried_once(opening: Opening) -> None:
    async with opening() as table:
        tried = list[None]()

        def full(*_: Any) -> None:
            tried.append(None)
            raise torch.OutOfMemoryError("CUDA out of memory")

        table.model._network.image_encoder.register_forward_pre_hook(full)

        found = await table.ask(PICTURES[0], PROMPTS * 3)

        assert set(errors(found).values()) == {("out_of_memory", "image")}
        assert (len(found), len(tried)) == (3 * len(PROMPTS), 1)
        with pytest.raises(OutOfMemory):
            await table.ask(PICTURES[0], GRID)


async def test_a_model_that_cannot_be_loaded_is_tried_once(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opening() as table:
        await table.hop.hosts[0].pool.unload(table._spec)
        tried = list[None]()

        def full(*_: Any, **__: Any) -> Sam:
            tried.append(None)
            raise OutOfMemory("does not fit beside what is there already")

        monkeypatch.setattr(SamProvider, "load", full)

        found = await table.ask(PICTURES[0], PROMPTS * 3)

        assert set(errors(found).values()) == {("out_of_memory", None)}
        assert (len(found), len(tried)) == (3 * len(PROMPTS), 1)


@pytest.mark.parametrize(("room", "tries"), [(4, [8, 4, 4]), (1, [8, 4, 2, *[1] * 8])])
async def test_prompts_that_do_not_fit_together_are_decoded_fewer_at_a_time(
    opening: Opening, room: int, tries: list[int]
) -> None:
    async with opening() as table:
        tried = list[int]()
        expected = await table.ask(PICTURES[0], PROMPTS[:8])

        def cramped(_: Any, __: Any, given: Any) -> None:
            tried.append(len(given["sparse_prompt_embeddings"]))
            if tried[-1] > room:
                raise MemoryError

        table.model._network.mask_decoder.register_forward_pre_hook(cramped, with_kwargs=True)
        found = await table.ask(PICTURES[0], PROMPTS[:8])

        assert errors(found) == {}
        assert tried == tries
        areas = [[mask.area for mask in value(found[i]).masks] for i in range(8)]
        assert areas == [[mask.area for mask in value(expected[i]).masks] for i in range(8)]


async def test_prompts_that_fit_in_no_way_say_so_and_the_next_ones_are_tried(opening: Opening) -> None:
    async with opening() as table:
        tried = list[int]()

        def full(_: Any, __: Any, given: Any) -> None:
            tried.append(len(given["sparse_prompt_embeddings"]))
            raise MemoryError

        hook = table.model._network.mask_decoder.register_forward_pre_hook(full, with_kwargs=True)
        found = await table.ask(PICTURES[0], PROMPTS[:16])

        assert set(errors(found).values()) == {("out_of_memory", "prompts")}
        assert tried == [8, 4, 2, 1] * 2
        hook.remove()
        assert errors(await table.ask(PICTURES[0], PROMPTS[:16])) == {}


async def test_a_picture_whose_embedding_is_not_finite_is_an_error_and_not_kept(opening: Opening) -> None:
    async with opening() as table:
        hook = table.model._network.image_encoder.register_forward_hook(lambda _, __, found: found * torch.nan)

        prompted = await table.ask(PICTURES[0])
        with pytest.raises(InternalError, match="not finite"):
            await table.ask(PICTURES[0], GRID)

        assert set(errors(prompted).values()) == {("internal", "image")}
        assert table.model.pictures.held_bytes == 0
        hook.remove()
        assert errors(await table.ask(PICTURES[0])) == {}


async def test_masks_of_everything_that_are_not_finite_are_an_error_not_an_absence(opening: Opening) -> None:
    async with opening() as table:
        await table.ask(PICTURES[0], GRID)

        def spoil(_: Any, __: Any, found: Any) -> Any:
            logits, scores = found
            scores[-1, 0] = torch.nan
            return logits, scores

        table.model._network.mask_decoder.register_forward_hook(spoil)

        with pytest.raises(InternalError, match="not finite"):
            await table.ask(PICTURES[0], GRID)


async def test_logits_of_everything_are_computed_of_the_masks_that_are_left(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opening() as table:
        answered, given, segment = list[Parcel](), list[Parcel](), Sam.segment

        def noting(self: Sam, batch: Any, **options: Any) -> Any:
            outcomes = segment(self, batch, **options)
            given.extend(batch)
            answered.extend(outcome.value for outcome in outcomes if isinstance(outcome, Ok))
            return outcomes

        monkeypatch.setattr(Sam, "segment", noting)
        # Its boxes are all alike: say that every second mask is a double.
        monkeypatch.setattr(everything, "apart", lambda masks, _: list(range(0, len(masks), 2)))

        found = await table.ask(PICTURES[0], GRID)

        masks = [value(found[index]).masks[0] for index in range(len(found))]
        sent = [len(answer.tensors["logits"]) for answer in answered if "logits" in answer.tensors]
        assert 8 < sum(sent) == len(masks) < sum(len(answer.tensors.get("counts", ())) for answer in answered)
        for mask in masks:
            assert mask.logits is not None
            low = torch.from_numpy(np.frombuffer(mask.logits.data, "<f4").reshape(1, 1, 64, 64).copy())
            scaled = next(one.tensors["pixels"].shape[:2] for one in given if "pixels" in one.tensors)
            full = table.model._network.postprocess_masks(low, scaled, (60, 100))
            assert int((full > 0).sum()) == pytest.approx(mask.area, abs=3)


async def test_masks_that_are_looked_through_are_bounded_over_all_requests(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opening() as table:
        async with aclosing(table.parts(PICTURES[0], GRID)) as first:
            await anext(first)
            monkeypatch.setattr("runners.everything.PROCESS_BYTES", table.segmenter._allowance.taken)

            with pytest.raises(Overloaded):
                await table.ask(PICTURES[1], GRID)

        assert table.segmenter._allowance.taken == 0
        assert table.hop.errands._in_flight == 0


class Cleaning:
    """Holds up the cleaning of masks until the gate opens, and counts them."""

    def __init__(self, gate: threading.Event) -> None:
        self.begun = 0
        self._gate = gate

    def __call__(self, mask: Any, *_: Any) -> Any:
        self.begun += 1
        self._gate.wait(30)
        return mask


@pytest.fixture
def cleaning(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Cleaning:
    cleaning = Cleaning(gate)
    monkeypatch.setattr(everything, "_cleaned", cleaning)
    return cleaning


CLEANED = Everything(points_per_side=4, min_score=0.0, min_stability=0.0, min_area=5)


async def test_who_leaves_while_masks_are_cleaned_stops_that(
    opening: Opening, cleaning: Cleaning, gate: threading.Event
) -> None:
    async with opening() as table:
        asking = asyncio.create_task(table.ask(PICTURES[0], CLEANED))
        await until(lambda: cleaning.begun == 1)

        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.set()

        assert table.hop.errands._in_flight == 0
        await table.hop.errands.in_thread(lambda: None)
        assert cleaning.begun == 1


async def test_the_deadline_ends_the_cleaning_too(opening: Opening, cleaning: Cleaning, gate: threading.Event) -> None:
    async with opening() as table:
        await table.ask(PICTURES[0], PROMPTS[:1])

        with pytest.raises(DeadlineExceeded):
            await table.ask(PICTURES[0], CLEANED, within_s=2.0)
        gate.set()

        await table.hop.errands.in_thread(lambda: None)
        assert cleaning.begun == 1


async def test_others_are_decoded_between_two_masks(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread decodes: were all masks cleaned in one go, this would be the last thing it does."""
    async with opening() as table:
        order, clean = list[str](), everything._cleaned

        def noting(*given: Any) -> Any:
            order.append("mask")
            if len(order) == 1:
                work = table.hop.errands.in_thread(lambda: order.append("other"))
                others.append(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop), loop=loop))
            return clean(*given)

        loop, others = asyncio.get_running_loop(), list[Any]()
        monkeypatch.setattr(everything, "_cleaned", noting)
        monkeypatch.setattr(everything, "OVERLAP", 1.0)

        await table.ask(PICTURES[0], CLEANED)
        await asyncio.gather(*others)

        assert order.count("mask") > 3
        assert order.index("other") <= 2


async def test_prompts_outside_of_a_picture_ask_no_runner(opening: Opening) -> None:
    async with opening() as table:
        found = await table.ask(PICTURES[0], [Prompt(points=(Point(x=1_000.0, y=0.0),))] * 3)

        assert all(isinstance(outcome, Failed) for outcome in found.values())
        assert table.encoded == []
