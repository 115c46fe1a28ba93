"""SAM ViT-B as it is published, with random weights: equal to the library, and what remembering pictures saves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry

from modelmora.domain.segmentation import MaskOptions, Point, Prompt
from runners.inputs.prompts import Picture, asking
from runners.networks.sam.forward import Sam
from runners.sam import PROVIDER
from tests.models import sams
from tests.models.test_sam import answered, assert_equal, by_prompt, of_every_kind, picture

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1_800)]

TOGETHER = 8
"""As the API sends them."""


@pytest.fixture(scope="module")
def network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sam_model_registry["vit_b"]().requires_grad_(False)
    sams._shake(network)
    return network


@pytest.fixture(scope="module")
def loaded(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    folder = sams.checkpoint(tmp_path_factory.mktemp("vit_b"), network)
    model = PROVIDER.load(sams.spec(), folder, device="cpu", threads=len(os.sched_getaffinity(0)))
    assert isinstance(model, Sam)
    return model


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_vit_b_equals_the_library(loaded: Sam, network: Any, name: str) -> None:
    photograph = sams.photograph(name)
    prompts = of_every_kind(*photograph.shape[:2])
    shown = picture(loaded, photograph, name.encode().ljust(32))

    [answer] = answered(loaded, asking(shown, prompts, MaskOptions(logits=True)))

    for found, right in zip(by_prompt(answer, len(prompts)), sams.reference(network, photograph, prompts), strict=True):
        assert_equal(found, right, photograph.shape[:2])


def seconds(loaded: Sam, shown: Picture, digest: bytes, prompts: list[Prompt], *, known: bool = False) -> float:
    """Of a request, in shares as the API sends them."""
    started = time.perf_counter()
    for first in range(0, len(prompts), TOGETHER):
        pixels = None if known or first else shown.pixels
        asked = Picture(digest=digest, size=shown.size, pixels=pixels)
        answered(loaded, asking(asked, prompts[first : first + TOGETHER], MaskOptions()))
    return time.perf_counter() - started


def test_ten_prompts_cost_little_more_than_one_and_the_next_request_next_to_nothing(loaded: Sam) -> None:
    photograph = sams.photograph("coffee")
    shown = picture(loaded, photograph)
    prompts = [Prompt(points=(Point(x=50.0 * i, y=35.0 * i),)) for i in range(1, 11)]
    one, ten, again = [], [], []
    for attempt in range(3):
        first, second = (bytes([attempt, kind]) * 16 for kind in range(2))
        one.append(seconds(loaded, shown, first, prompts[:1]))
        again.append(seconds(loaded, shown, first, prompts[:1], known=True))
        ten.append(seconds(loaded, shown, second, prompts))

    print(f"one prompt {min(one):.2f} s, ten {min(ten):.2f} s, again {min(again):.3f} s")  # noqa: T201 - a measurement
    assert min(ten) <= 1.3 * min(one)
    assert min(again) <= 0.1 * min(one)


def test_a_24_million_pixel_picture_takes_bounded_memory(loaded: Sam, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    size = (4_000, 6_000)
    pixels = np.zeros((683, 1024, 3), dtype=np.uint8)
    prompts = [Prompt(points=(Point(x=500.0 * i, y=300.0 * i),)) for i in range(1, 9)]
    process = psutil.Process()
    answered(loaded, asking(Picture(digest=b"", size=(683, 1024), pixels=pixels), prompts, MaskOptions()))
    Path("/proc/self/clear_refs").write_text("5")
    before = process.memory_info().rss

    answered(loaded, asking(Picture(digest=b"", size=size, pixels=pixels), prompts, MaskOptions()))

    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    assert peak - before < 1_500 * 2**20
