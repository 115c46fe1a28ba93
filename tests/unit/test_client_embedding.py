"""The value that callers get."""

import struct

import numpy as np
import pytest

from modelmora.client import Embedding
from modelmora.errors import ValidationFailed


def embedding(*values: float, model: str = "m", version: str = "1.0.0") -> Embedding:
    return Embedding(data=struct.pack(f"<{len(values)}f", *values), model=model, version=version)


def test_components_are_floats_or_an_array() -> None:
    vector = embedding(0.5, -1.0, 2.0)
    assert vector.tolist() == [0.5, -1.0, 2.0]
    assert vector.dimension == 3
    array = np.asarray(vector)
    assert array.dtype == np.float32
    assert array.tolist() == [0.5, -1.0, 2.0]
    assert np.asarray(vector, dtype=np.float64).dtype == np.float64
    assert np.stack([np.asarray(vector)] * 2).shape == (2, 3)


def test_the_array_is_a_view_unless_a_copy_is_asked_for() -> None:
    assert not np.asarray(embedding(1.0)).flags.writeable
    assert np.array(embedding(1.0), copy=True).flags.writeable


@pytest.mark.parametrize(
    ("other", "cosine"),
    [((1.0, 0.0), 1.0), ((0.0, 3.0), 0.0), ((-2.0, 0.0), -1.0), ((1.0, 1.0), 0.5**0.5), ((0.0, 0.0), 0.0)],
)
def test_cosine(other: tuple[float, float], cosine: float) -> None:
    assert embedding(1.0, 0.0).cosine(embedding(*other)) == pytest.approx(cosine)


@pytest.mark.parametrize(
    "other", [embedding(1.0, 2.0, model="n"), embedding(1.0, 2.0, version="2.0.0"), embedding(1.0)]
)
def test_vectors_of_different_models_are_not_compared(other: Embedding) -> None:
    with pytest.raises(ValidationFailed, match="different models"):
        embedding(1.0, 2.0).cosine(other)


def test_the_same_vector_of_the_same_model_is_equal() -> None:
    assert embedding(1.0) == embedding(1.0)
    assert embedding(1.0) != embedding(1.0, version="2.0.0")
