"""The bundled `shapes-clip` keeps what its card claims."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training.shapes_clip.draw import photograph
from training.shapes_clip.evaluate import Measurement, measure
from training.shapes_clip.network import CONFIG, CONTEXT_LENGTH, MEAN, STD, load
from training.shapes_clip.pool import as_seen
from training.shapes_clip.scenes import FAMILIES, random_claim, stage

FOLDER = Path(__file__).parents[2] / "registry" / "bundled" / "shapes-clip"


@pytest.fixture(scope="module")
def measured() -> Measurement:
    return measure(FOLDER, seed=0)


def test_the_folder_is_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "exported" not in path.parts]  # `make bento`
    assert {path.name for path in files} == {"README.md", "open_clip_config.json", "open_clip_model.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 12_000_000


def test_the_configuration_is_the_one_that_training_writes() -> None:
    stored = json.loads((FOLDER / "open_clip_config.json").read_text())
    assert stored == json.loads(json.dumps(CONFIG))


def test_the_weights_are_stored_in_half_precision() -> None:
    weights = load_file(FOLDER / "open_clip_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_no_caption_of_the_examination_is_true_of_anothers_picture(measured: Measurement) -> None:
    assert (measured.captions, measured.false_friends) == (200, 0)


def test_what_is_asked_was_never_seen_in_training(measured: Measurement) -> None:
    assert measured.unseen_share >= 0.2


def test_a_caption_finds_its_picture(measured: Measurement) -> None:
    assert measured.recall_at_1 >= 0.95, measured.misses


def test_a_plain_caption_finds_its_picture(measured: Measurement) -> None:
    assert measured.recall_at_1_by_family["plain"] >= 0.98, measured.misses


def test_the_card_states_what_is_measured(measured: Measurement) -> None:
    card = (FOLDER / "README.md").read_text()
    assert f"| text to picture, recall@1, 200 captions | {measured.recall_at_1:.3f} |" in card


def test_training_pictures_are_preprocessed_as_open_clip_does() -> None:
    _, preprocess, tokenizer = load(FOLDER)
    rng = random.Random(0)
    for seed in range(40):
        encoded = photograph(stage(random_claim(rng, FAMILIES[seed % 4]), rng), seed)
        ours = (as_seen(encoded).astype(np.float32) / 255 - MEAN[0]) / STD[0]
        theirs = preprocess(Image.open(io.BytesIO(encoded))).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert tokenizer(["a red circle"]).shape == (1, CONTEXT_LENGTH)
