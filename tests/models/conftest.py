"""Real photographs and small real architectures with random weights, for every provider's tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from load.random_weights import write_random
from modelmora.domain.models import ModelSpec
from runners.networks import linears

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""A `model_cfg` of open_clip that is built in milliseconds."""

# Those that ship inside the packages; the rest would be fetched from the network.
_SHIPPED = ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "camera", "coins")
_SIZES = ((640, 480), (480, 640), (1280, 853), (224, 224), (97, 401), (61, 47))


def small(
    *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, **others: Any
) -> dict[str, Any]:
    """`SMALL` with some things different."""
    towers = {
        "vision_cfg": {**SMALL["vision_cfg"], **(vision or {})},
        "text_cfg": {**SMALL["text_cfg"], **(text or {})},
    }
    return {**SMALL, **towers, **others}


def spec(**changes: Any) -> ModelSpec:
    """A model of the provider open_clip; its files are given to the provider as a folder."""
    given = {
        "name": "tested",
        "version": "1.0.0",
        "type": "embedding",
        "provider": "open_clip",
        "source": "file:tested",
    }
    return ModelSpec(**{**given, **changes})


def stored(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row by row."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """Colour and grey, as large as they come."""
    shipped = [getattr(skimage.data, name)() for name in _SHIPPED]
    return [Image.fromarray(pixels) for pixels in (*load_sample_images().images, *shipped)]


@pytest.fixture(scope="session")
def pictures(photographs: list[Image.Image]) -> list[Image.Image]:
    """The photographs no larger than 400 pixels, where many networks look at all of them."""
    made = [photograph.copy() for photograph in photographs]
    for picture in made:
        picture.thumbnail((400, 400))
    return made


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether linear layers are laid out for oneDNN, whatever pays on this machine."""
    monkeypatch.setattr(linears, "packing_pays", lambda dtype: request.param)
    return bool(request.param)


@pytest.fixture(scope="session")
def files(photographs: list[Image.Image]) -> list[bytes]:
    """The photographs as JPEG and PNG files of many sizes and shapes."""

    def every() -> Iterator[bytes]:
        for number, photograph in enumerate(photographs):
            yield stored(photograph, "JPEG", quality=90)
            for size in (_SIZES[number % len(_SIZES)], _SIZES[(number + 2) % len(_SIZES)]):
                scaled = photograph.resize(size, Image.Resampling.LANCZOS)
                yield stored(scaled, "JPEG", quality=85, progressive=number % 2 == 0)
                yield stored(scaled, "PNG")

    return list(every())


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model folder: `written(model_cfg, preprocess=..., dtype=...)`."""

    def write(architecture: Mapping[str, Any] | str = SMALL, **options: Any) -> Path:
        return write_random(architecture, tmp_path / "model", **options)

    return write
