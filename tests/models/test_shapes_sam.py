"""The bundled `shapes-sam` keeps what its card claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

from runners.networks.sam.weights import renamed
from training.shapes_sam import network as networks
from training.shapes_sam.evaluate import Measurement, load, measure
from training.shapes_sam.network import Part
from training.shapes_sam.scenes import SIDE

FOLDER = Path(__file__).parents[2] / "registry" / "bundled" / "shapes-sam"

POINT, BOX, SCORE = 0.6, 0.7, 0.2
"""Floors of the mean IoU, well below what the card says, and a ceiling of the score's mean error."""

ROWS = ("| by a point", "| by its box")


@pytest.fixture(scope="module")
def measured() -> Measurement:
    return measure(FOLDER, seed=0, scenes=8)


def test_the_folder_is_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 10_000_000


def test_the_configuration_is_the_one_that_training_writes() -> None:
    stored = json.loads((FOLDER / "config.json").read_text())
    for part, values in networks.CONFIG.items():
        assert {name: stored[part][name] for name in values} == values


def test_the_weights_are_stored_in_half_precision() -> None:
    weights = load_file(FOLDER / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_transformers_opens_the_folder_with_the_same_weights() -> None:
    theirs = renamed(SamModel.from_pretrained(FOLDER, dtype=torch.float32).state_dict())
    ours = load(FOLDER).state_dict()
    assert theirs.keys() == ours.keys() - {"pixel_mean", "pixel_std"}
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_whole_canvas_is_trained_as_it_is_served() -> None:
    network = load(FOLDER)
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(networks.encode(network, pixels, Part()), network.image_encoder(pixels))


def test_a_point_and_a_box_find_things_of_scenes_it_has_never_seen(measured: Measurement) -> None:
    assert measured.things > 40
    assert measured.by_point >= POINT
    assert measured.by_point_best_of_three >= measured.by_point
    assert measured.by_box >= BOX


def test_it_knows_about_how_good_its_masks_are(measured: Measurement) -> None:
    assert measured.score_error <= SCORE


def test_the_card_states_no_more_than_is_found_again(measured: Measurement) -> None:
    """Of a hundred scenes a seed; the few here are the first of them, so they differ a little."""
    card = (FOLDER / "README.md").read_text()
    by_point, by_box, *_ = (float(row.split("|")[2]) for row in card.splitlines() if row.startswith(ROWS))
    assert measured.by_point == pytest.approx(by_point, abs=0.08)
    assert measured.by_box == pytest.approx(by_box, abs=0.08)
