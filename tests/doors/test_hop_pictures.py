"""Pictures through the hop to transformers' networks: many callers at once, each with its own vector or logits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image as Pillow

from modelmora.domain.inference import Image
from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from runners.classifier import ClassifierProvider
from runners.dinov2 import Dinov2Provider
from runners.networks.network import Network
from runners.preprocess import prepare_image
from tests.doors.hop import Hop, call
from tests.models.conftest import stored
from tests.models.hub_folders import LABELS, configured, processor_of
from tests.models.hub_folders import stored as stored_model

CALLERS = 32


def spec(provider: str, type_: Any) -> ModelSpec:
    return ModelSpec(
        name=provider,
        version="1.0.0",
        type=type_,
        provider=provider,
        source=f"file:{provider}",
        batching=Batching(max_batch=16),
    )


DINOV2, CLASSIFIER = spec("dinov2", "embedding"), spec("classifier", "classification")


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """So many different parts of a photograph, as PNG."""
    photograph: Any = skimage.data
    whole = Pillow.fromarray(photograph.astronaut())
    return [stored(whole.crop((n * 10, n * 8, n * 10 + 90, n * 8 + 70)), "PNG") for n in range(CALLERS)]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each forward took."""
    seen, run = list[int](), Network.run

    def counted(self: Network, batch: Any, *others: Any, **options: Any) -> NDArray[np.float32]:
        seen.append(len(batch))
        return run(self, batch, *others, **options)

    monkeypatch.setattr(Network, "run", counted)
    return seen


def row(outcome: Outcome[Any]) -> NDArray[np.float32]:
    assert isinstance(outcome, Ok), outcome
    vector = getattr(outcome.value, "vector", None) or outcome.value.logits
    return np.frombuffer(vector.data, np.float32)


async def test_32_callers_get_their_own_vectors_from_common_forwards(
    tmp_path: Path, files: list[bytes], batches: list[int]
) -> None:
    processor = processor_of("Bit", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    stored_model(tmp_path, configured("dinov2"), processor)
    alone = Dinov2Provider().load(DINOV2, tmp_path, device="cpu", threads=1)
    how = alone.description.image
    assert how is not None
    expected = alone.embed("embed_image", [prepare_image(data, how) for data in files])

    async with Hop(tmp_path, DINOV2) as hop:
        await hop.host()
        described = await hop.inference.describe(DINOV2, deadline=call().deadline)
        await hop.inference.embed(DINOV2, "embed_image", [Image(files[0])], call=call())  # it is there now
        batches.clear()
        asked = [hop.inference.embed(DINOV2, "embed_image", [Image(data)], call=call()) for data in files]
        found = [outcomes[0] for outcomes in await asyncio.gather(*asked)]

    assert (described.dimension, described.image) == (32, how)
    np.testing.assert_allclose([row(outcome) for outcome in found], expected, atol=1e-5)
    assert sum(batches) == CALLERS
    assert len(batches) < CALLERS  # how few depends on how fast they come: tests of the batcher have that


async def test_32_callers_get_their_own_logits_and_one_of_them_an_error(
    tmp_path: Path, files: list[bytes], batches: list[int]
) -> None:
    stored_model(tmp_path, configured("vit"), processor_of("ViT", size=32), classifier=True)
    alone = ClassifierProvider().load(CLASSIFIER, tmp_path, device="cpu", threads=1)
    how = alone.description.image
    assert how is not None
    expected = alone.classify([prepare_image(data, how) for data in files])
    given = [*files[:5], b"no picture", *files[6:]]

    async with Hop(tmp_path, CLASSIFIER) as hop:
        await hop.host()
        described = await hop.inference.describe(CLASSIFIER, deadline=call().deadline)
        await hop.inference.classify(CLASSIFIER, [Image(files[0])], call=call())
        batches.clear()
        found = await hop.inference.classify(CLASSIFIER, [Image(data) for data in given], call=call())

    assert described.labels == LABELS
    assert isinstance(found[5], Failed)
    assert found[5].error.code == "unsupported_media"
    for place in set(range(CALLERS)) - {5}:
        np.testing.assert_allclose(row(found[place]), expected[place], atol=1e-5)
    assert sum(batches) == CALLERS - 1
    assert len(batches) < CALLERS
