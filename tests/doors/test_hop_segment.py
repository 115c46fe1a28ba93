"""Segmenting over the real hop: a small SAM in a runner, prompts and masks through its socket."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pictures
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator

from modelmora.domain.inference import Call, Image
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.domain.segmentation import Box, Everything, MaskOptions, Point, Prompt, Segmented
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, LimitExceeded
from runners import segmenting
from runners.hop import sitting
from runners.host import RunnerHost
from runners.networks.sam.forward import Sam
from runners.preprocess import prepare_sized
from runners.segmenting import RunnerSegmenter
from tests.doors.hop import Hop, call
from tests.fakes import until
from tests.models import sams

SPEC = sams.spec(name="own", source="bundled:own")
PHOTOGRAPH = np.array(Pictures.fromarray(sams.photograph("astronaut")).resize((100, 80)))
PROMPTS = [Prompt(points=(Point(x=4.0 * i, y=3.0 * i),)) for i in range(1, 21)]
OPTIONS = MaskOptions(logits=True)


def file_of(pixels: NDArray[np.uint8]) -> Image:
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "PNG")
    return Image(file.getvalue())


PICTURE = file_of(PHOTOGRAPH)


@pytest.fixture(scope="module")
def network() -> Any:
    return sams.build(256)


@pytest.fixture
async def hop(tmp_path: Path, network: Any) -> AsyncIterator[Hop]:
    sams.hub_like(tmp_path, network)
    async with Hop(tmp_path, SPEC) as hop:
        await hop.host()
        yield hop


@pytest.fixture
def segmenter(hop: Hop) -> RunnerSegmenter:
    return RunnerSegmenter(hop.errands)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a picture was decoded in the API's process."""
    counted = list[int]()

    def counting(data: bytes, *others: Any, **options: Any) -> Any:
        counted.append(len(data))
        return prepare_sized(data, *others, **options)

    monkeypatch.setattr(sitting, "prepare_sized", counting)
    return counted


async def loaded_in(host: RunnerHost, spec: ModelSpec = SPEC) -> Sam:
    await host.pool.load(spec)
    model = host.pool.peek(spec)
    assert isinstance(model, Sam)
    return model


def encodings(model: Sam) -> list[None]:
    """One entry each time the encoder runs from now on."""
    seen = list[None]()
    model._network.image_encoder.register_forward_hook(lambda *_: seen.append(None))
    return seen


async def answered(
    segmenter: RunnerSegmenter,
    asked: Sequence[Prompt] | Everything,
    *,
    picture: Image = PICTURE,
    options: MaskOptions = OPTIONS,
    asker: Call | None = None,
    watch: Callable[[int, Step], None] | None = None,
) -> dict[int, Outcome[Segmented]]:
    parts = segmenter.segment(SPEC, picture, asked, options=options, call=asker or call(), watch=watch)
    return {index: outcome async for index, outcome in parts}


def value(outcome: Outcome[Segmented]) -> Segmented:
    assert isinstance(outcome, Ok), outcome
    return outcome.value


def errors(found: dict[int, Outcome[Segmented]]) -> dict[int, tuple[str, str | None]]:
    return {i: (each.error.code, each.error.field) for i, each in found.items() if isinstance(each, Failed)}


async def test_masks_equal_the_librarys_the_best_first(segmenter: RunnerSegmenter, network: Any) -> None:
    found = await answered(segmenter, PROMPTS)

    assert sorted(found) == list(range(20))
    for index, (full, scores, _) in enumerate(sams.reference(network, PHOTOGRAPH, PROMPTS)):
        own = value(found[index])
        assert (own.height, own.width) == (80, 100)
        order = np.argsort(-scores, kind="stable")
        assert [mask.score for mask in own.masks] == pytest.approx([float(scores[i]) for i in order], abs=1e-5)
        for mask, place in zip(own.masks, order, strict=True):
            pixels = coco.decode({"size": [80, 100], "counts": mask.counts}).astype(bool)
            sure = np.abs(full[place]) > 1e-2
            assert np.array_equal(pixels[sure], full[place][sure] > 0)


async def test_ten_prompts_are_one_encoding_and_the_next_request_is_none(
    hop: Hop, segmenter: RunnerSegmenter, decoded: list[int]
) -> None:
    encoded = encodings(await loaded_in(hop.hosts[0]))

    first = await answered(segmenter, PROMPTS[:10])
    assert (len(encoded), len(decoded)) == (1, 1)
    again = await answered(segmenter, PROMPTS[:10])

    assert (len(encoded), len(decoded)) == (1, 1)
    assert {i: value(each).masks for i, each in first.items()} == {i: value(each).masks for i, each in again.items()}


async def test_masks_come_before_the_last_prompt_is_done(hop: Hop, segmenter: RunnerSegmenter) -> None:
    decoder, gate, begun = (await loaded_in(hop.hosts[0]))._network.mask_decoder, threading.Event(), list[None]()

    def held(*_: Any) -> None:
        begun.append(None)
        assert len(begun) == 1 or gate.wait(30)

    decoder.register_forward_pre_hook(held)
    parts = segmenter.segment(SPEC, PICTURE, PROMPTS, options=OPTIONS, call=call())
    try:
        async with aclosing(parts), asyncio.timeout(20):
            first = [(await anext(parts))[0] for _ in range(7)]
            gate.set()
            rest = [index async for index, _ in parts]
    finally:
        gate.set()

    assert (first, sorted(rest)) == (list(range(7)), list(range(7, 20)))


async def test_a_runner_that_has_forgotten_the_picture_gets_it_again(
    hop: Hop, segmenter: RunnerSegmenter, decoded: list[int]
) -> None:
    first = await answered(segmenter, PROMPTS)
    await hop.hosts[0].pool.unload(SPEC)
    encoded = encodings(await loaded_in(hop.hosts[0]))

    again = await answered(segmenter, PROMPTS)

    assert (len(encoded), len(decoded)) == (1, 2)
    assert {i: value(each).masks for i, each in first.items()} == {i: value(each).masks for i, each in again.items()}


async def test_without_a_cache_every_part_brings_the_picture(tmp_path: Path, network: Any, decoded: list[int]) -> None:
    spec = sams.spec(name="own", source="bundled:own", config={"cache": 0})
    sams.hub_like(tmp_path, network)
    async with Hop(tmp_path, spec) as hop:
        encoded = encodings(await loaded_in(await hop.host(), spec))
        parts = RunnerSegmenter(hop.errands).segment(spec, PICTURE, PROMPTS, options=OPTIONS, call=call())

        found = {index: outcome async for index, outcome in parts}

    assert (sorted(found), errors(found)) == (list(range(20)), {})
    assert (len(encoded), len(decoded)) == (3, 1)


async def test_other_pictures_do_not_get_each_others_masks(segmenter: RunnerSegmenter, network: Any) -> None:
    other = np.ascontiguousarray(PHOTOGRAPH[:, ::-1])

    mine = value((await answered(segmenter, PROMPTS[:1]))[0])
    theirs = value((await answered(segmenter, PROMPTS[:1], picture=file_of(other)))[0])

    assert mine.masks != theirs.masks
    [(_, scores, _)] = sams.reference(network, other, PROMPTS[:1])
    assert theirs.masks[0].score == pytest.approx(float(scores.max()), abs=1e-5)


async def test_with_two_workers_a_picture_stays_at_one(hop: Hop, segmenter: RunnerSegmenter) -> None:
    models = [await loaded_in(host) for host in (hop.hosts[0], await hop.host(2))]
    encoded = [encodings(model) for model in models]
    await until(lambda: sum(SPEC.key in view.holdings for view in hop.fleet.workers()) == 2)
    await until(lambda: all(v.holdings[SPEC.key].state == "loaded" for v in hop.fleet.workers()))

    for _ in range(3):
        await answered(segmenter, PROMPTS)

    assert sorted(map(len, encoded)) == [0, 1]


async def test_prompts_that_are_wrong_fail_alone_and_are_named(segmenter: RunnerSegmenter) -> None:
    wrong_mask = Tensor(dtype="float32", shape=(2, 2), data=bytes(16))
    infinite = Tensor(dtype="float32", shape=(64, 64), data=np.full((64, 64), np.inf, "<f4").tobytes())
    prompts = [
        PROMPTS[0],
        Prompt(),
        Prompt(points=(Point(x=101, y=1),)),
        Prompt(points=(Point(x=1, y=float("nan")),)),
        Prompt(box=Box(left=5, top=5, right=4, bottom=6)),
        Prompt(box=Box(left=5, top=5, right=6, bottom=81)),
        Prompt(points=PROMPTS[0].points, mask=wrong_mask),
        Prompt(points=PROMPTS[0].points, mask=infinite),
        PROMPTS[0],
    ]

    found = await answered(segmenter, prompts)

    assert errors(found) == {
        1: ("validation", "prompts[1]"),
        2: ("validation", "prompts[2].points[0]"),
        3: ("validation", "prompts[3].points[0]"),
        4: ("validation", "prompts[4].box"),
        5: ("validation", "prompts[5].box"),
        6: ("validation", "prompts[6].mask"),
        7: ("validation", "prompts[7].mask"),
    }
    assert value(found[0]).masks == value(found[8]).masks


async def test_prompts_that_are_all_wrong_decode_nothing(segmenter: RunnerSegmenter, decoded: list[int]) -> None:
    found = await answered(segmenter, [Prompt(), Prompt()])

    assert sorted(errors(found)) == [0, 1]
    assert decoded == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidInput),
        (PICTURE.data[:500], InvalidInput),
        (file_of(np.zeros((101, 101, 3), dtype=np.uint8)).data, LimitExceeded),
    ],
)
async def test_what_is_wrong_with_the_picture_is_raised(
    segmenter: RunnerSegmenter, data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await answered(segmenter, PROMPTS, picture=Image(data))


async def test_the_grey_the_upright_and_the_tiny_are_cut_out_too(segmenter: RunnerSegmenter) -> None:
    grey = io.BytesIO()
    picture = Pictures.fromarray(PHOTOGRAPH).convert("L")
    exif = Pictures.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.save(grey, "JPEG", exif=exif)
    corner = [Prompt(points=(Point(x=0, y=0),))]

    turned = value((await answered(segmenter, corner, picture=Image(grey.getvalue())))[0])
    tiny = value((await answered(segmenter, corner, picture=file_of(PHOTOGRAPH[:1, :1])))[0])

    assert (turned.height, turned.width) == (100, 80)
    assert (tiny.height, tiny.width) == (1, 1)


async def test_everything_equals_the_librarys_generator(segmenter: RunnerSegmenter, network: Any) -> None:
    asked = Everything(points_per_side=5, min_score=0.1, min_stability=0.05)
    steps: list[tuple[int, Step]] = []

    found = await answered(segmenter, asked, watch=lambda index, step: steps.append((index, step)))

    generator = SamAutomaticMaskGenerator(
        network,
        points_per_side=5,
        points_per_batch=8,
        pred_iou_thresh=asked.min_score,
        stability_score_thresh=asked.min_stability,
        output_mode="coco_rle",
    )
    expected = sorted(generator.generate(PHOTOGRAPH), key=lambda record: -record["predicted_iou"])
    masks = [value(found[index]).masks for index in range(len(found))]
    assert all(len(each) == 1 for each in masks)
    assert [each[0].score for each in masks] == pytest.approx([one["predicted_iou"] for one in expected], abs=1e-5)
    assert [each[0].area for each in masks] == pytest.approx([one["area"] for one in expected], abs=3)
    assert all(each[0].logits is not None for each in masks)
    assert steps[-1] == (0, Step("inference", 4, 4))


async def test_where_nothing_passes_one_answer_says_so(segmenter: RunnerSegmenter) -> None:
    found = await answered(segmenter, Everything(points_per_side=2, min_score=1.0, min_stability=1.0))

    assert list(found) == [0]
    assert (value(found[0]).masks, value(found[0]).height, value(found[0]).width) == ((), 80, 100)


async def test_everything_is_bounded_in_bytes(segmenter: RunnerSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.everything.PICTURE_BYTES", 100)

    with pytest.raises(LimitExceeded, match="min_score"):
        await answered(segmenter, Everything(points_per_side=4, min_score=0, min_stability=0))


async def test_what_is_wrong_with_the_picture_comes_before_what_is_wrong_with_a_prompt(
    segmenter: RunnerSegmenter,
) -> None:
    parts = segmenter.segment(SPEC, Image(b""), [Prompt(), PROMPTS[0]], options=OPTIONS, call=call())

    async with aclosing(parts):
        with pytest.raises(InvalidInput):
            await anext(parts)


async def test_what_is_remembered_of_pictures_is_bounded(
    segmenter: RunnerSegmenter, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    monkeypatch.setattr(segmenting, "KNOWN", 2)
    pictures = [file_of(PHOTOGRAPH[:50, : 50 + n]) for n in range(4)]

    for picture in pictures:
        await answered(segmenter, PROMPTS[:1], picture=picture)
    assert len(segmenter._known) <= 2
    await answered(segmenter, PROMPTS[:1], picture=pictures[0])

    assert len(decoded) == 5


async def test_who_stops_reading_frees_the_work(hop: Hop, segmenter: RunnerSegmenter) -> None:
    parts = segmenter.segment(SPEC, PICTURE, PROMPTS * 10, options=OPTIONS, call=call())

    await anext(parts)
    await parts.aclose()

    assert hop.errands._in_flight == 0
    await until(lambda: not hop.hosts[0].batcher.busy())
    assert not [open_ for link in hop.fleet.links("default") for open_ in link.open]


async def test_a_deadline_that_passes_fails_the_prompts(segmenter: RunnerSegmenter, hop: Hop) -> None:
    await loaded_in(hop.hosts[0])
    await answered(segmenter, PROMPTS[:1])

    found = await answered(segmenter, PROMPTS[:2], asker=call(within_s=-1.0))

    assert errors(found) == {0: ("deadline_exceeded", None), 1: ("deadline_exceeded", None)}


async def test_timings_say_what_decoding_and_inference_took(segmenter: RunnerSegmenter) -> None:
    found = await answered(segmenter, PROMPTS[:1])

    timings = value(found[0]).timings
    assert timings.preprocess_ms > 0
    assert timings.inference_ms > 0


async def test_a_warm_up_runs(hop: Hop) -> None:
    [warmed] = await hop.hosts[0].warm(SPEC)

    assert (warmed.task, warmed.items) == ("segment", 1)
    model = hop.hosts[0].pool.peek(SPEC)
    assert isinstance(model, Sam)
    assert model.pictures.held_bytes == 0
