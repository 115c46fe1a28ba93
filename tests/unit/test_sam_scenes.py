"""The scenes that `shapes-sam` learns from, and what is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.shapes_sam import losses
from training.shapes_sam.network import CHANNELS, TOKENS
from training.shapes_sam.prompts import Asked, ask, box_of, mask_of
from training.shapes_sam.sameness import Sameness
from training.shapes_sam.scenes import MOST, OUTSIDE, SIDE, Scene, draw


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(7, number) for number in range(8)]


def asked_of(scene: Scene, seed: int, *, count: int = 8) -> Asked | None:
    return ask(np.random.default_rng(seed), scene.labels, scene.wholes, scene.asked, count=count)


def test_a_scene_is_the_same_for_its_seed_and_number_and_no_other() -> None:
    one, again, other = draw(3, 4), draw(3, 4), draw(4, 3)
    assert np.array_equal(one.pixels, again.pixels)
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.labels, other.labels)


def test_scenes_have_things_on_a_ground_and_nothing_beside_the_picture(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.pixels.shape == (SIDE, SIDE, 3)
        assert scene.labels.shape == (SIDE, SIDE)
        assert scene.labels.max() < OUTSIDE
        assert len(scene.asked) == len(scene.wholes) == MOST
        assert scene.asked[1:].any()
        assert set(np.flatnonzero(scene.asked)) <= set(np.unique(scene.labels))


def test_a_whole_is_seen_with_its_parts_and_a_part_alone(scenes: list[Scene]) -> None:
    parts = [(scene, thing) for scene in scenes for thing in np.unique(scene.labels) if scene.wholes[thing] != thing]
    assert parts
    for scene, part in parts:
        whole = int(scene.wholes[part])
        assert scene.wholes[whole] == whole < part
        assert np.array_equal(mask_of(scene.labels, scene.wholes, int(part)), scene.labels == part)
        both = mask_of(scene.labels, scene.wholes, whole)
        assert both[scene.labels == part].all()
        assert not both[scene.labels == 0].any()


def test_every_prompt_lies_where_its_mask_is(scenes: list[Scene]) -> None:
    forms = set()
    for seed, scene in enumerate(scenes * 6):
        given = asked_of(scene, seed)
        assert given is not None
        assert len(given.masks) == 8
        assert given.masks.any(axis=(1, 2)).all()
        forms.add((given.points is not None and given.points[0].shape[1], given.boxes is not None))
        if given.points is not None:
            for mask, places, kinds in zip(given.masks, *given.points, strict=True):
                assert [bool(mask[int(y), int(x)]) for x, y in places] == [bool(kind) for kind in kinds]
        if given.boxes is not None:
            exact = np.array([box_of(mask) for mask in given.masks])
            assert np.abs(given.boxes.numpy() - exact).max() <= 20
    assert forms == {(1, False), (2, False), (3, False), (False, True), (1, True)}


def test_of_an_empty_scene_nothing_is_asked() -> None:
    nothing = np.zeros((SIDE, SIDE), np.uint8)
    wholes, asked = np.arange(MOST, dtype=np.uint8), np.zeros(MOST, bool)
    assert ask(np.random.default_rng(0), nothing, wholes, asked, count=8) is None


def test_the_loss_of_the_true_masks_is_nothing_and_one_good_mask_of_three_is_enough() -> None:
    wanted = torch.zeros(2, 8, 8)
    wanted[0, 2:5, 2:5] = wanted[1, :4] = 1
    right = (wanted * 40 - 20)[:, None].expand(-1, 4, -1, -1)
    scores = torch.ones(2, 4)
    assert losses.of_masks(right, scores, wanted).item() == pytest.approx(0, abs=1e-3)

    two_wrong = torch.stack([right[:, 0], -right[:, 1], -right[:, 2], right[:, 3]], dim=1)
    known = torch.tensor([[1.0, 0, 0, 1]] * 2)
    assert losses.overlap(two_wrong, wanted).tolist() == known.tolist()
    assert losses.of_masks(two_wrong, known, wanted).item() == pytest.approx(0, abs=1e-3)
    assert losses.of_masks(two_wrong, scores, wanted).item() == pytest.approx(0.5, abs=1e-3)
    assert losses.of_masks(-right, torch.zeros(2, 4), wanted).item() > 1


def test_where_all_looks_alike_only_the_distance_tells_things_apart() -> None:
    torch.manual_seed(0)
    head = Sameness(CHANNELS)
    plain = torch.zeros(1, CHANNELS, TOKENS, TOKENS)
    corners = torch.tensor([[0, (4 * TOKENS) ** 2 - 1]])

    looks = head(plain, corners).reshape(2, 4 * TOKENS, 4 * TOKENS)[:, ::4, ::4]  # one place of each token
    head.is_placed = True
    placed = head(plain, corners)[0]

    torch.testing.assert_close(looks, looks[:, :1, :1].expand_as(looks))
    assert placed[0, 0] > placed[0, -1]
    assert placed[1, -1] > placed[1, 0]
