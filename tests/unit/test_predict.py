"""The use case behind every face that takes tensors: who serves, what is declared, one record left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description
from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok
from modelmora.domain.tensors import Tensor, TensorSpec
from modelmora.errors import (
    CapabilityMissing,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
    SchemaMismatch,
    ValidationFailed,
    VersionNotFound,
)
from tests.fakes import CATALOGUE, IRIS, IRIS_DESCRIBED, TIMINGS, World
from tests.unit.test_embed import Kept

CALL = Call(request_id="r", deadline=5_000.0)
TWO_ROWS = Tensor(dtype="float32", shape=(2, 4), data=np.zeros((2, 4), "<f4").tobytes())
SCORES = Tensor(dtype="float32", shape=(2, 3), data=np.zeros((2, 3), "<f4").tobytes())
CLASSES = Tensor(dtype="int64", shape=(2,), data=np.zeros(2, "<i8").tobytes())
INPUTS = {"features": TWO_ROWS}


def a_world(description: Description = IRIS_DESCRIBED) -> World:
    world = World(catalogue=Catalogue((*CATALOGUE.models, IRIS), CATALOGUE.groups))
    world.describer.known = {IRIS.key: description}
    world.predictor.gives = {"scores": SCORES, "class": CLASSES}
    return world


async def test_tensors_go_to_the_model_and_its_outputs_come_back_with_what_it_declares_of_them() -> None:
    world = a_world()

    answer = await world.predict()(None, INPUTS, call=CALL)

    assert answer.model is IRIS
    assert answer.outputs == {"scores": SCORES, "class": CLASSES}
    assert answer.declared["scores"].labels == ("setosa", "versicolor", "virginica")
    assert (answer.timings, answer.total_ms) == (TIMINGS, 0.0)
    assert world.predictor.asked == [(IRIS, INPUTS, (), CALL)]


@pytest.mark.parametrize("ref", [None, "", "iris", "iris@1.0.0"])
async def test_the_reference_decides_who_serves(ref: str | None) -> None:
    assert (await a_world().predict()(ref, INPUTS, call=CALL)).model is IRIS


@pytest.mark.parametrize(
    ("ref", "error", "detail"),
    [
        ("nothing", ModelNotFound, "no model 'nothing'"),
        ("iris@9.9.9", VersionNotFound, "it has 1.0.0"),
        ("a/b", ValidationFailed, "not a name"),
        ("clip", CapabilityMissing, "clip@1.0.0 cannot predict tensors; it can embed pictures and embed texts"),
        ("sam", CapabilityMissing, "sam@1.0.0 cannot predict tensors; it can segment"),
    ],
)
async def test_who_takes_no_tensors_is_refused_before_the_runners(
    ref: str, error: type[ModelMoraError], detail: str
) -> None:
    world = a_world()

    with pytest.raises(error, match=detail):
        await world.predict()(ref, INPUTS, call=CALL)
    assert world.describer.asked == []
    assert world.predictor.asked == []


async def test_without_a_tensor_model_the_default_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="no tensor model is the default"):
        await World().predict()(None, INPUTS, call=CALL)


async def test_inputs_that_take_knowing_the_schema_are_read_with_it() -> None:
    world = a_world()

    async def read(description: Description) -> Mapping[str, Tensor]:
        assert description is IRIS_DESCRIBED
        return INPUTS

    await world.predict()("iris", read, call=CALL)

    assert world.predictor.asked[0][1] is INPUTS


async def test_only_the_outputs_that_are_asked_for_come_back() -> None:
    world = a_world()

    answer = await world.predict()(None, INPUTS, outputs=["class"], call=CALL)

    assert answer.outputs == {"class": CLASSES}
    with pytest.raises(SchemaMismatch, match="no output 'classes'"):
        await world.predict()(None, INPUTS, outputs=["classes"], call=CALL)


@pytest.mark.parametrize(
    ("names", "found"), [([f"x{i}" for i in range(22)], "22 inputs"), (["x" * 1_001], "x" * 80)], ids=["many", "long"]
)
async def test_what_has_nothing_to_do_with_the_model_does_not_reach_the_runners(names: list[str], found: str) -> None:
    world = a_world()

    with pytest.raises(SchemaMismatch) as caught:
        await world.predict()(None, dict.fromkeys(names, TWO_ROWS), call=CALL)

    assert (caught.value.field, caught.value.found) == ("inputs", found)
    assert world.predictor.asked == []


async def test_one_record_is_left_with_an_item_a_row() -> None:
    kept = Kept()
    world = a_world()
    world.hooks.append(kept)

    await world.predict()(None, INPUTS, call=CALL)

    assert [(r.model, r.task, r.items) for r in kept.records] == [(IRIS, "predict", 2)]
    assert all(isinstance(outcome, Ok) and outcome.value.timings == TIMINGS for outcome in kept.records[0].outcomes)


@pytest.mark.parametrize("shape", [(2, 3), ()])
async def test_what_takes_no_batches_is_one_item(shape: tuple[int, ...]) -> None:
    kept = Kept()
    spec = TensorSpec(name="scores", dtype="float32", shape=shape)
    world = a_world(Description(model=IRIS.key, outputs=(spec,), batches=False))
    world.hooks.append(kept)

    await world.predict()(None, INPUTS, call=CALL)

    assert kept.records[0].items == 1


@pytest.mark.parametrize("error", [SchemaMismatch("a row too long"), Overloaded("full")])
async def test_a_request_that_fails_is_one_failed_item(error: ModelMoraError) -> None:
    kept = Kept()
    world = a_world()
    world.hooks.append(kept)
    world.predictor.raises = error

    with pytest.raises(type(error)):
        await world.predict()(None, INPUTS, call=CALL)

    assert [(r.task, r.outcomes) for r in kept.records] == [("predict", (Failed(error),))]


async def test_what_describing_raises_is_raised() -> None:
    world = a_world()
    world.describer.raises = ModelLoading("being fetched")

    with pytest.raises(ModelLoading):
        await world.predict()(None, INPUTS, call=CALL)
    assert world.predictor.asked == []


async def test_a_caller_who_leaves_frees_the_work_and_leaves_no_record() -> None:
    kept = Kept()
    world = a_world()
    world.hooks.append(kept)
    world.predictor.hold = asyncio.Event()

    predicting = asyncio.create_task(world.predict()(None, INPUTS, call=CALL))
    await world.predictor.entered.wait()
    predicting.cancel()
    await asyncio.gather(predicting, return_exceptions=True)

    assert world.predictor.cancelled.is_set()
    assert kept.records == []
