"""The provider without a network: what it answers, and how it fails when told to."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.inputs.tokenizer import prepare_text
from runners.noop import PROVIDER, Noop, NoopProvider
from runners.preprocess import prepare_image
from tests.unit.test_preprocess import noise, stored


def spec(**config: Any) -> ModelSpec:
    return ModelSpec(
        name="noop", version="1.0.0", type="embedding", provider="noop", source="bundled:noop", config=config
    )


def model(**config: Any) -> Noop:
    return NoopProvider().load(spec(**config), None, device="cpu", threads=1)


def as_bytes(text: str) -> NDArray[np.generic]:
    how = PROVIDER.describe(spec(), None).text
    assert how is not None
    return prepare_text(text, how, truncate=False)


def test_each_text_has_its_own_vector_whatever_the_batch() -> None:
    texts = [as_bytes(f"text {number}") for number in range(20)]
    together = model().embed("embed_text", texts)
    alone = np.concatenate([model().embed("embed_text", [text]) for text in texts])
    assert (together == alone).all()
    assert len(np.unique(together, axis=0)) == 20
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_the_dimension_is_configured() -> None:
    assert PROVIDER.describe(spec(dimension=512), None).dimension == 512
    assert model(dimension=512).embed("embed_text", [as_bytes("a")]).shape == (1, 512)


def test_pictures_are_taken_where_a_size_is_configured() -> None:
    assert PROVIDER.describe(spec(), None).image is None
    how = PROVIDER.describe(spec(image_size=32), None).image
    assert how is not None
    pictures = [prepare_image(stored(noise(40, 30, seed)), how) for seed in range(3)]
    assert len(np.unique(model(image_size=32).embed("embed_image", pictures), axis=0)) == 3


@pytest.mark.parametrize("task", ["embed_text", "embed_image"])
@pytest.mark.parametrize("size", [0, 16])
def test_a_sample_can_be_run(task: Any, size: int) -> None:
    made = model(image_size=size)
    assert made.embed(task, [made.sample(task)]).shape == (1, 8)


def test_a_batch_with_the_text_to_fail_on_raises() -> None:
    made = model(fail_on="poison")
    assert made.embed("embed_text", [as_bytes("healthy")]).shape == (1, 8)
    with pytest.raises(RuntimeError, match="poison"):
        made.embed("embed_text", [as_bytes("healthy"), as_bytes("some poison here")])


def test_the_text_to_crash_on_ends_the_process() -> None:
    code = (
        "from tests.unit.test_noop import model, as_bytes\n"
        "model(crash_on='boom').embed('embed_text', [as_bytes('boom')])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 70


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dimensions": 8}, "did you mean 'dimension'"),
        ({"dimension": 0}, "at least 1"),
        ({"dimension": True}, "at least 1"),
        ({"dimension": 8.5}, "at least 1"),
        ({"delay_ms": -1}, "at least 0"),
        ({"delay_ms": "long"}, "at least 0"),
        ({"fail_on": 3}, "must be a text"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        PROVIDER.describe(spec(**config), None)
