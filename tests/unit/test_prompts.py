"""Prompts and masks on their way to the model and back: parcels, doubles, small parts, the cache, the window."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from skimage import measure
from torchvision.ops import nms  # type: ignore[import-untyped]  # ships no types

from modelmora.domain.segmentation import Box, Everything, Mask, MaskOptions, Point, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import ValidationFailed
from runners.hop import wire
from runners.hop.sitting import in_window
from runners.inputs import everything
from runners.inputs.prompts import (
    ABSENT,
    Picture,
    asking,
    asking_for_everything,
    check_mask,
    is_unknown,
    masks_of,
)
from runners.inputs.regions import without_small
from runners.networks.sam.cache import Encoded, EncodedPictures
from runners.payload import Parcel
from tests.models import sams

label: Any = measure.label

PICTURE = Picture(digest=b"d" * 32, size=(20, 30))
BOX = Box(left=1.0, top=2.0, right=3.5, bottom=4.0)


def tensor(values: NDArray[np.float32]) -> Tensor:
    return Tensor(dtype="float32", shape=values.shape, data=values.astype("<f4").tobytes())


def over_the_wire(parcel: Parcel) -> Parcel:
    return wire.parcel_of(wire.parcel_to_wire(parcel))


def test_prompts_arrive_as_they_were_asked() -> None:
    mask = tensor(np.arange(16, dtype=np.float32).reshape(4, 4))
    prompts = [
        Prompt(points=(Point(x=1.5, y=2.5), Point(x=3, y=4, background=True))),
        Prompt(box=BOX, mask=mask),
        Prompt(points=(Point(x=5, y=6),), box=BOX),
    ]

    there = over_the_wire(asking(PICTURE, prompts, MaskOptions(logits=True)))

    assert there.tensors["digest"].tobytes() == PICTURE.digest
    assert there.tensors["size"].tolist() == [20, 30]
    assert "pixels" not in there.tensors
    assert there.tensors["points"][0].tolist() == [[1.5, 2.5], [3, 4]]
    assert there.tensors["labels"].tolist() == [[1, 0], [ABSENT, ABSENT], [1, ABSENT]]
    assert there.tensors["boxes"][1:].tolist() == [[1, 2, 3.5, 4]] * 2
    assert np.isnan(there.tensors["boxes"][0]).all()
    assert there.tensors["masked"].tolist() == [1]
    assert there.tensors["masks"].tolist() == np.arange(16).reshape(1, 4, 4).tolist()
    assert there.options == {"multimask": [False, False, False], "logits": True}


def test_prompts_without_any_points_and_pictures_with_pixels_arrive_too() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)

    there = over_the_wire(
        asking(Picture(digest=b"", size=(2, 3), pixels=pixels), [Prompt(box=BOX)], MaskOptions(multimask=True))
    )

    assert there.tensors["points"].shape == (1, 0, 2)
    assert there.tensors["digest"].size == 0
    assert np.array_equal(there.tensors["pixels"], pixels)
    assert there.options["multimask"] == [True]


def test_everything_asks_for_three_masks_of_each_point() -> None:
    grid = everything.grid(2, height=20, width=40)

    there = over_the_wire(asking_for_everything(PICTURE, grid, Everything(min_score=0.5)))

    assert grid.tolist() == [[10, 5], [30, 5], [10, 15], [30, 15]]
    assert there.tensors["points"].tolist() == grid.reshape(-1, 1, 2).tolist()
    assert there.options["multimask"] == [True] * 4
    assert there.options["everything"] == {"min_score": 0.5, "min_stability": 0.95}


def test_masks_come_back_with_their_prompts() -> None:
    counts = np.empty(2, dtype=object)
    counts[:] = [b"08", b"3:"]
    answer = Parcel(
        tensors={
            "of": np.array([1, 0], dtype=np.int32),
            "counts": counts,
            "scores": np.array([0.5, 0.25], dtype=np.float32),
            "areas": np.array([8, 2]),
            "boxes": np.array([[0, 0, 4, 2], [1, 0, 2, 2]], dtype=np.int32),
            "stability": np.array([1, 0.5], dtype=np.float32),
            "logits": np.ones((2, 4, 4), dtype=np.float32),
        }
    )

    (first, mask), (second, _) = masks_of(over_the_wire(answer))

    assert (first, second) == (1, 0)
    assert mask == Mask(
        counts=b"08",
        score=0.5,
        area=8,
        box=Box(left=0, top=0, right=4, bottom=2),
        stability=1.0,
        logits=tensor(np.ones((4, 4), dtype=np.float32)),
    )
    assert not is_unknown(answer)
    assert is_unknown(over_the_wire(Parcel(tensors={}, options={"unknown": True})))


@pytest.mark.parametrize(
    "mask",
    [
        tensor(np.zeros((4, 5), dtype=np.float32)),
        tensor(np.zeros((1, 4, 4), dtype=np.float32)),
        Tensor(dtype="float64", shape=(4, 4), data=bytes(128)),
        Tensor(dtype="float32", shape=(4, 4), data=bytes(63)),
        tensor(np.full((4, 4), nan, dtype=np.float32)),
        tensor(np.full((4, 4), -inf, dtype=np.float32)),
        tensor(np.full((4, 4), 2e6, dtype=np.float32)),
    ],
)
def test_an_earlier_mask_of_another_form_is_refused_by_name(mask: Tensor) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check_mask(Prompt(box=BOX, mask=mask), 4, "prompts[0].mask")
    assert caught.value.field == "prompts[0].mask"


def mask_of(box: Box, score: float, counts: bytes = b"") -> Mask:
    return Mask(counts=counts, score=score, area=1, box=box)


def test_doubles_are_left_out_as_torchvision_does_it() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 40, 400):
        corner, extent = rng.integers(0, 40, (size, 2)), rng.integers(1, 30, (size, 2))
        boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
        scores = rng.random(size).astype(np.float32)
        masks = [
            mask_of(Box(left=left, top=top, right=right + 1, bottom=bottom + 1), float(score))
            for (left, top, right, bottom), score in zip(boxes.tolist(), scores, strict=True)
        ]

        kept = everything.apart(masks, [mask.score for mask in masks])

        assert kept == nms(torch.from_numpy(boxes), torch.from_numpy(scores), everything.OVERLAP).tolist()


def without_small_by_the_book(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    """`remove_small_regions` of segment_anything, once for holes and once for islands, its regions by scikit-image."""
    changed = False
    for correct_holes in (True, False):
        regions, count = label(correct_holes ^ mask, connectivity=2, return_num=True)
        sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
        small = [i + 1 for i, size in enumerate(sizes) if size < min_area]
        if not small:
            continue
        fill = [0, *small]
        if not correct_holes:
            fill = [i for i in range(count + 1) if i not in fill] or [int(np.argmax(sizes)) + 1]
        mask, changed = np.isin(regions, fill), True
    return mask, changed


def test_small_parts_and_holes_go_as_the_library_has_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.random()
        min_area = int(rng.integers(1, 30))

        cleaned, changed = without_small(mask, min_area)
        expected, altered = without_small_by_the_book(mask, min_area)

        assert np.array_equal(cleaned, expected)
        assert changed == altered


def test_cleaned_masks_say_what_they_have_become() -> None:
    pixels = np.zeros((12, 12), dtype=np.uint8)
    pixels[2:8, 2:8] = 1
    pixels[4, 4] = 0
    pixels[10, 10] = 1
    whole = coco.encode(np.asfortranarray(pixels))
    mask = Mask(counts=whole["counts"], score=0.9, area=36, box=Box(left=2, top=2, right=11, bottom=11))

    [cleaned] = sams.chosen([mask], min_area=3, height=12, width=12)

    assert cleaned.area == 36
    assert cleaned.box == Box(left=2, top=2, right=8, bottom=8)
    assert coco.decode({"size": [12, 12], "counts": cleaned.counts})[2:8, 2:8].all()


def test_the_best_of_everything_comes_first() -> None:
    boxes = [Box(left=20.0 * n, top=0, right=20.0 * n + 10, bottom=10) for n in range(3)]
    masks = [mask_of(box, score) for box, score in zip(boxes, (0.2, 0.9, 0.5), strict=True)]

    chosen = sams.chosen(masks, min_area=0, height=10, width=100)

    assert [mask.score for mask in chosen] == [0.9, 0.5, 0.2]


def encoded(kib: int = 1) -> Encoded:
    return Encoded(torch.zeros(1, kib, 16, 16), (16, 16))


def test_the_cache_keeps_what_was_used_last_and_never_more_than_its_limit() -> None:
    cache = EncodedPictures(3 * 1024, 1024)
    for name in (b"a", b"b", b"c"):
        cache.get(name, encoded)
    cache.get(b"a")

    cache.get(b"d", encoded)

    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.held_bytes == 3 * 1024
    cache.get(b"large", partial(encoded, 4))
    assert cache.get(b"large") is None
    assert cache.held_bytes == 3 * 1024
    cache.clear()
    assert cache.held_bytes == 0


def test_a_place_is_set_aside_for_which_others_go_but_not_those_in_use() -> None:
    cache = EncodedPictures(2 * 1024, 1024)
    cache.get(b"a", encoded)
    cache.get(b"b", encoded)

    assert cache.has_place({b"a"})
    cache.reserve(b"c", {b"a"})

    assert [cache.keeps(name) for name in (b"a", b"b")] == [True, False]
    assert not cache.has_place({b"a"})
    cache.get(b"d", encoded)
    assert [cache.keeps(name) for name in (b"a", b"d")] == [False, True], "who set nothing aside takes what is left"
    cache.get(b"c", encoded)
    assert [cache.keeps(name) for name in (b"c", b"d")] == [True, True]
    assert cache.held_bytes == 2 * 1024


def test_where_no_place_could_be_set_aside_nothing_is_kept_and_nobody_goes() -> None:
    cache = EncodedPictures(1024, 1024)
    cache.get(b"a", encoded)

    cache.reserve(b"b", {b"a"})
    cache.get(b"b", encoded)

    assert [cache.keeps(name) for name in (b"a", b"b")] == [True, False]


def test_a_place_that_was_not_used_is_free_again() -> None:
    cache = EncodedPictures(1024, 1024)
    cache.reserve(b"a", ())
    assert not cache.has_place(())

    cache.release(b"a")

    assert cache.has_place(())
    assert EncodedPictures(1023, 1024).places == 0


def test_who_waited_for_one_that_failed_tries_itself() -> None:
    cache, entered, go = EncodedPictures(1024, 1024), threading.Event(), threading.Event()
    failed: list[BaseException] = []
    found: list[Encoded | None] = []

    def fail() -> Encoded:
        entered.set()
        go.wait(10)
        raise MemoryError("full")

    def first() -> None:
        try:
            cache.get(b"a", fail)
        except MemoryError as error:
            failed.append(error)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    entered.wait(10)
    threads += [
        threading.Thread(target=lambda: found.append(cache.get(b"a", encoded))),
        threading.Thread(target=lambda: found.append(cache.get(b"a"))),
    ]
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)

    assert len(failed) == 1
    assert any(one is not None for one in found)
    assert cache.get(b"a") is not None


async def test_works_run_two_at_a_time_and_the_first_perhaps_alone() -> None:
    running, most = 0, list[int]()

    async def work(number: int) -> int:
        nonlocal running
        running += 1
        most.append(running)
        await asyncio.sleep(0)
        running -= 1
        return number

    works = [partial(work, number) for number in range(6)]

    assert sorted([number async for number in in_window(works)]) == list(range(6))
    assert max(most) == 2
    most.clear()
    assert [number async for number in in_window(works[:2], first_alone=True)] == [0, 1]
    assert max(most) == 1


async def test_who_stops_taking_stops_the_works() -> None:
    began, ended = list[int](), list[int]()

    async def work(number: int) -> int:
        began.append(number)
        try:
            if number:
                await asyncio.Event().wait()
        finally:
            ended.append(number)
        return number

    numbers = in_window([partial(work, number) for number in range(5)])
    assert await anext(numbers) == 0
    await numbers.aclose()

    assert sorted(began) == sorted(ended)
    assert len(began) < 5


async def test_what_one_raises_ends_the_others() -> None:
    left = list[int]()

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(0)
            if number == 1:
                raise ValidationFailed("no")
            await asyncio.Event().wait()
        finally:
            left.append(number)
        return number

    with pytest.raises(ValidationFailed):
        async for _ in in_window([partial(work, number) for number in range(4)]):
            pass

    assert sorted(left) == [0, 1]
