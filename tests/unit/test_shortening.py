"""Vectors cut to fewer dimensions: who allows it, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora.domain.description import Description
from modelmora.domain.inference import Embedded, Timings, Vector
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok
from modelmora.domain.shortening import check_dimensions, shortened
from modelmora.errors import ModelLoadFailed, ValidationFailed
from runners import noop, open_clip

WHOLE = Timings(queue_ms=1.0, preprocess_ms=2.0, inference_ms=3.0)


def embedded(values: Any) -> Embedded:
    return Embedded(Vector(np.asarray(values, "<f4").tobytes()), WHOLE, tokens=5)


def described(shortens: int, dimension: int = 512) -> Description:
    return Description(model="clip@1.0.0", dimension=dimension, shortens=shortens)


def declared(provider: str, **config: Any) -> ModelSpec:
    return ModelSpec(
        name="clip", version="1.0.0", type="embedding", provider=provider, source="bundled:x", config=config
    )


@pytest.mark.parametrize("dimension", [64, 65, 511])
def test_the_first_components_are_normalised_anew_and_nothing_else_changes(dimension: int) -> None:
    values = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    values /= np.linalg.norm(values)

    match shortened(embedded(values), dimension):
        case Ok(Embedded(vector, timings, tokens)):
            cut = np.frombuffer(vector.data, "<f4")
    expected = values[:dimension] / np.linalg.norm(values[:dimension])
    assert cut.shape == (dimension,)
    np.testing.assert_allclose(cut, expected, atol=1e-7)
    assert np.linalg.norm(cut) == pytest.approx(1.0, abs=1e-6)
    assert (timings, tokens) == (WHOLE, 5)


def test_its_own_dimension_leaves_a_vector_as_it_was() -> None:
    whole = embedded([0.5, 0.25, 0.125])

    assert shortened(whole, 3) == Ok(whole)


def test_tiny_components_keep_their_direction() -> None:
    match shortened(embedded([3e-38, 4e-38, 1.0]), 2):
        case Ok(value):
            assert np.frombuffer(value.vector.data, "<f4").tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_a_vector_without_any_direction_left_fails_alone() -> None:
    outcome = shortened(embedded([0.0, 0.0, 1.0]), 2)

    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.field) == ("validation", "dimensions")


@pytest.mark.parametrize("wanted", [64, 65, 511, 512])
def test_from_the_smallest_to_its_own_all_is_allowed(wanted: int) -> None:
    check_dimensions(described(shortens=64), wanted)


@pytest.mark.parametrize("wanted", [1, 63, 513, 10**9])
def test_outside_of_it_the_range_is_named(wanted: int) -> None:
    with pytest.raises(ValidationFailed, match=r"clip@1\.0\.0") as caught:
        check_dimensions(described(shortens=64), wanted)

    assert (caught.value.field, caught.value.found, caught.value.expected) == ("dimensions", str(wanted), "64 to 512")


def test_a_model_that_allows_none_has_its_own_alone() -> None:
    check_dimensions(described(shortens=0), 512)
    for wanted in (1, 511, 513):
        with pytest.raises(ValidationFailed, match="does not allow") as caught:
            check_dimensions(described(shortens=0), wanted)
        assert caught.value.expected == "512"


def test_the_registry_says_how_far_a_model_may_be_cut(tmp_path: Path) -> None:
    clip = {"model_cfg": {"embed_dim": 96, "vision_cfg": {"image_size": 32}, "text_cfg": {}}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(clip))

    assert open_clip.PROVIDER.describe(declared("open_clip", shortens=32), tmp_path).shortens == 32
    assert open_clip.PROVIDER.describe(declared("open_clip"), tmp_path).shortens == 0
    assert noop.PROVIDER.describe(declared("noop", dimension=96, shortens=96), None).shortens == 96
    assert noop.PROVIDER.describe(declared("noop"), None).shortens == 0


@pytest.mark.parametrize("shortens", [-1, 9, True, "4", 4.0, None])
def test_a_smallest_dimension_that_cannot_be_is_refused_with_the_model(shortens: Any) -> None:
    with pytest.raises(ModelLoadFailed) as caught:
        noop.PROVIDER.describe(declared("noop", dimension=8, shortens=shortens), None)

    assert (caught.value.field, caught.value.found) == ("config.shortens", repr(shortens))
