"""Tensors over the hop: real ONNX models in a real host, requests checked and prepared on the API's side."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
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
    ModelLoadFailed,
    Overloaded,
    SchemaMismatch,
)
from modelmora.ports import Predicted
from runners.hop import wire
from runners.inputs import features as features_of
from runners.inputs.arrays import array_of, bytes_of, to_array, to_tensor
from runners.networks.tensors import trying
from runners.payload import Parcel
from runners.predicting import RunnerPredictor
from tests.doors.hop import Hop, call
from tests.models.tensor_nets import (
    endless,
    graph,
    linear,
    perceptron,
    relay,
    species,
    value,
    weights,
    write,
    write_perceptron,
)

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
LOGARITHM, LOOKUP, ALONE, NORM = model("logarithm"), model("lookup"), model("alone"), model("norm")
PAIRS, ENDLESS = model("pairs"), model("endless")
MANY = replace(model("many"), batching=Batching(max_batch=200_000))
ANY_SIZE = replace(model("any-size", preprocess=[{"tensor": "x", "image": {"resize": "none"}}]), batching=Batching())
MODELS = (
    PERCEPTRON,
    PEOPLE,
    PICTURES,
    TEXTS,
    SPECIES,
    CORRUPT,
    LOGARITHM,
    LOOKUP,
    ALONE,
    NORM,
    ANY_SIZE,
    MANY,
    PAIRS,
    ENDLESS,
)
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
    write(folder / "endless", endless())
    for name in ("texts", "many"):
        write(folder / name, relay())
    write(folder / "species", species())
    write(folder / "logarithm", graph([helper.make_node("Log", ["x"], ["y"])], *floats))
    write(folder / "lookup", graph([helper.make_node("Gather", ["table", "x"], ["y"])], *ids, [table]))
    unnamed = [value(name, TensorProto.FLOAT, [None, 4]) for name in "xy"]
    write(folder / "norm", graph([helper.make_node("Softmax", ["x"], ["y"], axis=0)], unnamed[:1], unnamed[1:]))
    pairs = [value(name, TensorProto.FLOAT, [None, 4]) for name in "ab"]
    turned = [helper.make_node("Transpose", ["b"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["y"])]
    write(folder / "pairs", graph(turned, pairs, [value("y", TensorProto.FLOAT, [None, None])]))
    any_size = value("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    mean = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    write(folder / "any-size", graph([mean], [any_size], [value("y", TensorProto.FLOAT, ["batch", 3, 1, 1])]))
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


async def test_rows_that_hang_together_are_computed_request_by_request_and_in_one_piece(hop: Hop) -> None:
    """Its file calls no axis anything: that its rows are normalised over each other is seen when it is loaded."""
    tables = [features(rows, seed=rows) for rows in (1, 3, 50)]

    given = await asyncio.gather(*(predict(hop, NORM, x=of(table)) for table in tables))

    for one, table in zip(given, tables, strict=True):
        powers = np.exp(table - table.max(axis=0))
        assert near(one, powers / powers.sum(axis=0), "y")
    told = await hop.inference.describe(NORM, deadline=call().deadline)
    assert (told.batches, told.proven, told.max_batch, told.inputs[0].shape) == (False, True, 1, (None, 4))


async def test_who_only_asks_what_a_model_takes_does_not_load_it(hop: Hop) -> None:
    told = await hop.inference.describe(NORM, deadline=call().deadline)

    assert (told.batches, told.proven) == (True, False)
    assert hop.hosts[0].pool.peek(NORM) is None


async def test_inputs_that_are_no_batch_may_differ_in_their_first_axes(hop: Hop) -> None:
    """As their file has it they are one; what can be told of that is told by the model, not by its description."""
    one, other = features(3), features(5)

    given = await predict(hop, PAIRS, a=of(one), b=of(other))

    assert near(given, one @ other.T, "y")


async def test_what_was_seen_of_a_model_holds_when_it_is_gone(hop: Hop) -> None:
    await predict(hop, NORM, x=of(features(2)))
    await hop.hosts[0].pool.unload(NORM)

    assert near(await predict(hop, NORM, x=of(np.zeros((50, 4)))), np.full((50, 4), 0.02), "y")


async def test_large_pictures_go_in_smaller_slices(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, pictures = [], np.random.default_rng(0).integers(0, 256, (6, 40, 50, 3), np.uint8)
    for pixels in pictures:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        stored.append(file.getvalue())
    monkeypatch.setattr(features_of, "PICTURES_BYTES", 2 * 40 * 50 * 3 * 4)
    sent, to_wire = list[int](), wire.parcel_to_wire

    def watched(parcel: Parcel) -> Any:
        sent.append(parcel.rows)
        return to_wire(parcel)

    monkeypatch.setattr(wire, "parcel_to_wire", watched)

    given = await predict(hop, ANY_SIZE, image=texts(*stored))

    assert near(given, pictures.mean(axis=(1, 2)).reshape(6, 3, 1, 1) / 255, "y")
    assert sent[:3] == [2, 2, 2]


async def test_texts_by_the_hundred_thousand_do_not_hold_the_loops(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Tensor(dtype="bytes", shape=(200_000,), data=pack([b"c"] * 200_000))
    on_a_loop, to_wire, of_wire = list[str](), bytes_of, array_of

    def watched(what: Callable[..., Any], *arguments: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            on_a_loop.append(what.__name__)
        return what(*arguments)

    monkeypatch.setattr(wire, "bytes_of", partial(watched, to_wire))
    monkeypatch.setattr(wire, "array_of", partial(watched, of_wire))

    given = await predict(hop, MANY, x=many)

    assert (given.outputs["y"], on_a_loop) == (many, [])
    assert (await predict(hop, MANY, x=texts("a"))).outputs["y"] == texts("a")
    assert len(on_a_loop) == 4


def recorded(what: Callable[..., Any], calls: list[float]) -> Callable[..., Any]:
    def record(*arguments: Any) -> Any:
        calls.append(time.monotonic())
        return what(*arguments)

    return record


async def test_a_damaged_model_says_so(hop: Hop) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx is damaged"):
        await predict(hop, CORRUPT, x=of([1.0]))


async def test_a_model_that_hangs_is_tried_once_and_the_others_are_not_kept_waiting(
    hop: Hop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "TRY_S", 0.5)
    tried = list[float]()
    monkeypatch.setattr(trying, "_tried", recorded(trying._tried, tried))

    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="it has not come back from a sample") as raised:
            await predict(hop, ENDLESS, x=of([1.0]))
        assert 500 < (raised.value.retry_after_s or 0) <= 600
    monkeypatch.setattr(trying, "TRY_S", 60.0)

    assert near(await predict(hop, PERCEPTRON, features=of(features(1))), reference(features(1)))
    assert len(tried) == 2


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
