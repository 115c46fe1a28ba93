"""Tensors over the hop: real ONNX models in a real host, requests checked and prepared on the API's side."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.tensors import Tensor, pack
from modelmora.errors import (
    ArtifactCorrupt,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    SchemaMismatch,
)
from modelmora.ports import Predicted
from runners.inputs.arrays import to_array, to_tensor
from runners.predicting import RunnerPredictor
from tests.doors.hop import Hop, call
from tests.models.tensor_nets import graph, linear, perceptron, relay, species, value, weights, write, write_perceptron

MAX_BATCH = 4


def model(name: str, *, queue: int = 64, **config: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        version="1.0.0",
        type="tensor",
        provider="onnx",
        source=f"file:{name}",
        config={"file": f"{name}/model.onnx", **config},
        batching=Batching(max_batch=MAX_BATCH, max_wait_ms=5.0, queue=queue),
    )


COLUMNS = [
    {"name": "age", "impute": 40, "scale": {"mean": 40, "std": 10}},
    {"name": "fare", "scale": {"min": 0, "max": 100}},
    {"name": "colour", "one_hot": ["red", "green"]},
]
PERCEPTRON = model("perceptron", queue=MAX_BATCH * 4)
PEOPLE = model("people", preprocess=[{"tensor": "features", "columns": COLUMNS}])
PICTURES = model("pictures", preprocess=[{"tensor": "x", "image": {"height": 8, "width": 8, "mean": 0.5, "std": 0.5}}])
TEXTS, SPECIES, CORRUPT = model("texts"), model("species"), model("corrupt")
LOGARITHM, LOOKUP, ALONE = model("logarithm"), model("lookup"), model("alone")
MODELS = (PERCEPTRON, PEOPLE, PICTURES, TEXTS, SPECIES, CORRUPT, LOGARITHM, LOOKUP, ALONE)
NETWORK = perceptron()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the models."""
    folder = tmp_path_factory.mktemp("models")
    floats = [value("x", TensorProto.FLOAT, ["batch"])], [value("y", TensorProto.FLOAT, ["batch"])]
    ids = [value("x", TensorProto.INT64, ["batch"])], [value("y", TensorProto.FLOAT, ["batch", 2])]
    sequence = [value("x", TensorProto.FLOAT, ["length"])], [value("y", TensorProto.FLOAT, ["length"])]
    pixels = relay(TensorProto.FLOAT, ("batch", 3, 8, 8))
    table = weights("table", np.ones((3, 2), np.float32))
    write(folder / "pictures", pixels)
    write(folder / "texts", relay())
    write(folder / "species", species())
    write(folder / "logarithm", graph([helper.make_node("Log", ["x"], ["y"])], *floats))
    write(folder / "lookup", graph([helper.make_node("Gather", ["table", "x"], ["y"])], *ids, [table]))
    axis = weights("axis", np.array(0, np.int64))
    write(folder / "alone", graph([helper.make_node("CumSum", ["x", "axis"], ["y"])], *sequence, [axis]))
    for name in ("perceptron", "people"):
        (folder / name).mkdir()
        write_perceptron(folder / name, NETWORK)
    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "model.onnx").write_bytes(write(folder / "whole", linear()).read_bytes()[:50])
    return folder


@pytest.fixture
def directory(tmp_path: Path, folder: Path) -> Path:
    """The host's own, with the models in it."""
    for one in folder.iterdir():
        (tmp_path / one.name).symlink_to(one)
    return tmp_path


@pytest.fixture
async def hop(directory: Path) -> AsyncIterator[Hop]:
    async with Hop(directory, *MODELS) as hop:
        await hop.host()
        yield hop


def of(array: Any, dtype: str = "float32") -> Tensor:
    return to_tensor(np.asarray(array, dtype))


def texts(*ones: str | bytes) -> Tensor:
    elements = [one.encode() if isinstance(one, str) else one for one in ones]
    return Tensor(dtype="bytes", shape=(len(ones),), data=pack(elements))


async def predict(
    hop: Hop, spec: ModelSpec, outputs: Sequence[str] = (), *, within_s: float = 60.0, **inputs: Tensor
) -> Predicted:
    return await RunnerPredictor(hop.errands).predict(spec, inputs, outputs=outputs, call=call(within_s=within_s))


def reference(array: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(NETWORK(torch.from_numpy(array)).numpy())


def features(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 4), dtype=np.float32)


def near(given: Predicted, expected: NDArray[Any], name: str = "scores") -> bool:
    array = to_array(given.outputs[name])
    return array.shape == expected.shape and float(np.abs(array - expected).max()) <= 1e-4


async def test_a_request_is_computed_there_and_comes_back(hop: Hop) -> None:
    array = features(3)

    given = await predict(hop, PERCEPTRON, features=of(array))

    assert near(given, reference(array))
    assert given.timings.inference_ms > 0


async def test_a_long_table_goes_in_slices_and_does_not_fill_the_queue(hop: Hop) -> None:
    array = features(101)

    given = await predict(hop, PERCEPTRON, features=of(array))

    assert near(given, reference(array))


async def test_many_callers_each_get_their_own_rows(hop: Hop) -> None:
    arrays = [features(1 + seed % 3, seed) for seed in range(8)]

    given = await asyncio.gather(*(predict(hop, PERCEPTRON, features=of(array)) for array in arrays))

    assert all(near(one, reference(array)) for one, array in zip(given, arrays, strict=True))


async def test_a_table_is_imputed_scaled_and_encoded_here(hop: Hop) -> None:
    given = await predict(
        hop,
        PEOPLE,
        age=of([np.nan, 50, 30, 40, 41, 42], "float64"),
        fare=of([0, 100, 50, 50, 50, 50], "float64"),
        colour=texts("red", "green", "red", "red", "red", "red"),
    )

    ages = [0, 1, -1, 0, 0.1, 0.2]
    table = [
        [age, fare, colour == 0, colour == 1]
        for age, fare, colour in zip(ages, [0, 1, 0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0, 0, 0], strict=True)
    ]
    assert near(given, reference(np.array(table, np.float32)))


async def test_what_is_wrong_with_a_table_is_named_by_its_row(hop: Hop) -> None:
    zeros, colours = of(np.zeros(6), "float64"), texts("red", "red", "red", "red", "red", "pink")

    with pytest.raises(SchemaMismatch, match=r"'colour' has texts that the model does not know") as raised:
        await predict(hop, PEOPLE, age=zeros, fare=zeros, colour=colours)

    assert raised.value.field == "inputs.colour[5]"


async def test_pictures_are_decoded_and_normalised_here(hop: Hop) -> None:
    photograph = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    pictures = [Image.fromarray(photograph).resize((8, 8)) for _ in range(6)]
    stored = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        stored.append(file.getvalue())

    given = await predict(hop, PICTURES, image=texts(*stored))

    pixels = np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    assert near(given, (pixels / 255 - 0.5) / 0.5, "y")


async def test_a_picture_of_a_later_slice_that_is_none_is_named_by_its_row_in_the_request(hop: Hop) -> None:
    good = io.BytesIO()
    Image.new("RGB", (9, 9)).save(good, "PNG")

    with pytest.raises(SchemaMismatch) as raised:
        await predict(hop, PICTURES, image=texts(*[good.getvalue()] * 5, b"no picture"))

    assert raised.value.field == "inputs.image[5]"


async def test_texts_go_and_come(hop: Hop) -> None:
    given = await predict(hop, TEXTS, x=texts("żółć", "", "b"))

    assert given.outputs["y"] == texts("żółć", "", "b")
    with pytest.raises(SchemaMismatch, match="not UTF-8"):
        await predict(hop, TEXTS, x=texts(b"\xff"))


async def test_only_the_outputs_asked_for_come_back(hop: Hop) -> None:
    measured = of(np.ones((6, 4)))

    some = await predict(hop, SPECIES, ["probabilities"], measured=measured)
    every = await predict(hop, SPECIES, measured=measured)

    assert [*some.outputs] == ["probabilities"]
    assert [*every.outputs] == ["species", "probabilities"]
    assert every.outputs["species"] == texts(*["virginica"] * 6)
    with pytest.raises(SchemaMismatch, match="no output 'specie'; did you mean 'species'"):
        await predict(hop, SPECIES, ["specie"], measured=measured)


async def test_every_fault_is_told_before_anything_is_sent(hop: Hop) -> None:
    with pytest.raises(SchemaMismatch, match="2 things are wrong") as raised:
        await predict(hop, PERCEPTRON, features=of(np.full((2, 4), np.nan)), more=of([1]))

    assert [fault.field for fault in raised.value.faults] == ["inputs.more", "inputs.features[0][0]"]
    assert hop.hosts[0].pool.peek(PERCEPTRON) is None


async def test_outputs_that_are_not_finite_are_no_answer(hop: Hop) -> None:
    assert near(await predict(hop, LOGARITHM, x=of([1.0])), np.zeros(1), "y")
    with pytest.raises(InternalError, match="not finite"):
        await predict(hop, LOGARITHM, x=of([-1.0]))


async def test_a_value_that_the_network_cannot_take_is_that_callers_alone(hop: Hop) -> None:
    given = await asyncio.gather(
        predict(hop, LOOKUP, x=of([0], "int64")),
        predict(hop, LOOKUP, x=of([7], "int64")),
        predict(hop, LOOKUP, x=of([2], "int64")),
        return_exceptions=True,
    )

    assert [type(one).__name__ for one in given] == ["Predicted", "SchemaMismatch", "Predicted"]


async def test_a_model_without_a_batch_takes_one_request_at_a_time(hop: Hop) -> None:
    given = await asyncio.gather(*(predict(hop, ALONE, x=of(np.ones(length))) for length in (3, 50)))

    assert [to_array(one.outputs["y"]).tolist() for one in given] == [[1, 2, 3], [*range(1, 51)]]


async def test_a_damaged_model_says_so(hop: Hop) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx is damaged"):
        await predict(hop, CORRUPT, x=of([1.0]))


async def test_a_caller_who_leaves_frees_what_was_under_way(hop: Hop) -> None:
    await predict(hop, PERCEPTRON, features=of(features(1)))
    asked = [asyncio.create_task(predict(hop, PERCEPTRON, features=of(features(200, seed)))) for seed in range(3)]
    await asyncio.sleep(0)  # let them begin

    for one in asked:
        one.cancel()
    left = await asyncio.gather(*asked, return_exceptions=True)

    assert all(isinstance(one, asyncio.CancelledError) for one in left)
    with hop.errands.permit(hop.errands.settings.max_in_flight):  # nothing is held any more
        pass
    assert near(await predict(hop, PERCEPTRON, features=of(features(2))), reference(features(2)))


async def test_a_deadline_holds_for_all_slices(hop: Hop) -> None:
    await predict(hop, PERCEPTRON, features=of(features(1)))

    with pytest.raises(DeadlineExceeded):
        await predict(hop, PERCEPTRON, features=of(features(100)), within_s=0.0)


async def test_without_room_nothing_is_begun(hop: Hop) -> None:
    await predict(hop, PERCEPTRON, features=of(features(1)))

    with hop.errands.permit(hop.errands.settings.max_in_flight), pytest.raises(Overloaded):
        await predict(hop, PERCEPTRON, features=of(features(1)))
