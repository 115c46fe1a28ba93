"""The bundled SAM on the server as it is shipped: the picture of README is made of what it answers here."""

from __future__ import annotations

import numpy as np
from PIL import Image

from modelmora.client import SyncClient
from tests.e2e.serving import ROOT, Server
from training.shapes_sam import coins
from training.shapes_sam.evaluate import overlap
from training.shapes_sam.picture import EVERYTHING, around, cut_out, drawn, everything_in

PICTURE = ROOT / "docs" / "masks.jpg"


def test_coins_of_a_photograph_are_cut_out_by_their_boxes(shipped: Server) -> None:
    truths = coins.outlines()
    assert len(truths) == 24

    with SyncClient(shipped.grpc_url) as client:
        masks = cut_out(client, coins.photograph(), [around(truth) for truth in truths])

    fits = [overlap(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
    assert sum(fit >= 0.8 for fit in fits) >= 21, sorted(fits)
    assert min(fits) >= 0.7, sorted(fits)


def test_coins_are_found_in_everything(shipped: Server) -> None:
    with SyncClient(shipped.url) as client:
        masks = everything_in(client, coins.photograph(), EVERYTHING)

    found = [max(overlap(mask, truth) for mask in masks) for truth in coins.outlines()]
    assert sum(fit >= 0.75 for fit in found) >= 12, sorted(found)
    areas = [int(mask.sum()) for mask in masks]
    assert areas == sorted(areas, reverse=True)


def test_what_is_drawn_shows_each_mask_and_leaves_the_rest_as_it_is() -> None:
    pixels = coins.photograph()
    truths = coins.outlines()[:3]

    picture = np.asarray(drawn(pixels, truths), dtype=int)

    plain = np.asarray(drawn(pixels, ()), dtype=int)
    changed = np.abs(picture - plain).max(axis=2) > 0
    large = np.asarray(Image.fromarray(np.any(truths, axis=0)).resize(changed.shape[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(changed, large)


def test_the_picture_of_readme_is_small_and_shown_with_what_it_is() -> None:
    assert PICTURE.stat().st_size <= 300_000
    height, width = coins.photograph().shape
    with Image.open(PICTURE) as picture:
        assert (picture.height, picture.width > 4 * width) == (2 * height, True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/masks.jpg" in readme
