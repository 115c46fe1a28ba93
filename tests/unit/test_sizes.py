"""What models are known to take: measured here, or told by earlier workers."""

from __future__ import annotations

from dataclasses import replace

from modelmora.domain.models import ModelSpec, Task
from modelmora.ports import Footprint
from runners.memory.sizes import Measured, Sizes

CLIP = ModelSpec(name="clip", version="1.0.0", type="embedding", provider="family", source="bundled:noop")
FULL: dict[Task, int] = {"embed_text": 4, "embed_image": 4}


def told(size: int, *, device: str = "cpu", precision: str = "fp32") -> Footprint:
    return Footprint(model=CLIP.key, device=device, precision=precision, bytes=size)


def text(items: int, *, peak: int, kept: int = 0) -> Measured:
    return Measured(task="embed_text", items=items, peak=peak, kept=kept)


def test_nothing_is_known_at_first() -> None:
    assert Sizes().of(CLIP, "cpu").bytes == 0


def test_what_was_told_counts_for_its_device_and_precision_only() -> None:
    sizes = Sizes()
    sizes.tell([told(700), told(350, precision="bf16"), told(900, device="cuda:0")])

    assert sizes.of(CLIP, "cpu").bytes == 700
    assert sizes.of(CLIP, "cuda:0").bytes == 900
    assert sizes.of(CLIP, "cuda:1").bytes == 0
    assert Sizes().of(CLIP, "cpu").bytes == 0


def test_another_precision_is_another_size() -> None:
    sizes = Sizes()
    sizes.tell([told(700), told(350, precision="bf16")])

    assert sizes.of(replace(CLIP, precision="bf16"), "cpu").bytes == 350


def test_a_footprint_is_weights_plus_the_highest_peak() -> None:
    size = Sizes().of(CLIP, "cpu")
    size.opened(600, FULL)
    size.learn(text(1, peak=10))
    size.learn(text(4, peak=40))
    size.learn(Measured(task="embed_image", items=1, peak=30))

    assert size.bytes == 640


def test_what_batches_leave_in_use_lies_under_the_next_ones() -> None:
    size = Sizes().of(CLIP, "cpu")
    size.opened(600, FULL)
    size.learn(text(1, peak=25, kept=20))
    size.learn(text(2, peak=10))

    assert size.bytes == 630


def test_what_was_told_is_the_least_until_every_full_batch_was_measured() -> None:
    sizes = Sizes()
    sizes.tell([told(700)])
    size = sizes.of(CLIP, "cpu")
    size.opened(600, FULL)
    size.learn(text(4, peak=40))
    assert size.bytes == 700

    size.learn(Measured(task="embed_image", items=4, peak=50))
    assert size.bytes == 650


def test_only_larger_batches_than_any_before_are_of_interest() -> None:
    sizes = Sizes()
    assert not sizes.curious(CLIP.key, "cpu", "embed_text", 1)  # never loaded
    size = sizes.of(CLIP, "cpu")
    assert sizes.curious(CLIP.key, "cpu", "embed_text", 1)

    size.learn(text(4, peak=1))

    assert not sizes.curious(CLIP.key, "cpu", "embed_text", 4)
    assert sizes.curious(CLIP.key, "cpu", "embed_text", 5)
    assert sizes.curious(CLIP.key, "cpu", "embed_image", 1)


def test_batches_larger_than_a_full_one_are_of_no_interest() -> None:
    sizes = Sizes()
    sizes.of(CLIP, "cpu").opened(600, FULL)

    assert sizes.curious(CLIP.key, "cpu", "embed_text", 4)
    assert not sizes.curious(CLIP.key, "cpu", "embed_text", 5)
