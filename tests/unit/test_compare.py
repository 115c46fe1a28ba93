"""Models side by side: each with its own outcome, measures and similarities, and never more at once than is wise."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelmora.domain.inference import Call, Content, Image, Text, Vector
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.similarity import cosines
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, LimitExceeded, ModelMoraError, Overloaded, ValidationFailed
from modelmora.usecases.admission import Limits
from modelmora.usecases.compare import ITEMS, MODELS, TOGETHER, Compared, Comparisons
from tests.fakes import CLIP, OLD, TIMINGS, VIT, World, holding, until, vector_of, worker
from tests.unit.test_embed import Kept

CALL = Call(request_id="r", deadline=5_000.0)
TORN = InvalidInput("the picture is cut off", field="image")
MANY = Limits(items=10_000)


def texts(*contents: str) -> list[Outcome[Content]]:
    return [Ok(Text(content)) for content in contents]


def matrix(tensor: Tensor) -> NDArray[np.float32]:
    assert tensor.dtype == "float32"
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def vector(*values: float) -> Vector:
    return Vector(np.array(values, "<f4").tobytes())


def compared(answer: Comparisons, index: int) -> Compared:
    outcome = answer.models[index].outcome
    assert isinstance(outcome, Ok), outcome
    return outcome.value


def error(answer: Comparisons, index: int) -> ModelMoraError:
    outcome = answer.models[index].outcome
    assert isinstance(outcome, Failed)
    return outcome.error


async def test_each_model_is_asked_for_all_items_and_answers_in_the_order_asked() -> None:
    world = World()

    answer = await world.compare()(["vit", "clip", "vit@1.0.0"], texts("a", "b"), call=CALL)

    assert [one.name for one in answer.models] == ["vit", "clip", "vit@1.0.0"]
    assert [compared(answer, i).answer.model for i in range(3)] == [VIT, CLIP, OLD]
    assert [asked.model for asked in world.embedder.asked] == [VIT, CLIP, OLD]
    assert {asked.items for asked in world.embedder.asked} == {(Text("a"), Text("b"))}
    assert compared(answer, 0).dimension == 4
    assert (compared(answer, 0).answer.timings, answer.timings) == (TIMINGS, TIMINGS)


async def test_the_models_are_asked_side_by_side() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    comparing = asyncio.create_task(world.compare()(["vit", "clip", "vit@1.0.0"], texts("a"), call=CALL))
    await until(lambda: world.embedder.running == 3)
    world.embedder.hold.set()

    assert len((await comparing).models) == 3


async def test_a_comparison_of_many_items_takes_only_so_much_room_at_once() -> None:
    """16 models of 256 pictures each would be 600 MB of prepared pixels."""
    world = World(limits=MANY)
    world.embedder.hold = asyncio.Event()
    items = texts(*["a"] * ITEMS)

    comparing = asyncio.create_task(world.compare()(["vit", "clip", "vit@1.0.0"], items, call=CALL))
    await until(lambda: world.embedder.running == TOGETHER // ITEMS)
    world.embedder.hold.set()
    answer = await comparing

    assert world.embedder.most == TOGETHER // ITEMS == 2
    assert all(isinstance(one.outcome, Ok) for one in answer.models)


async def test_a_caller_who_leaves_frees_the_work_of_every_model() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    comparing = asyncio.create_task(world.compare()(["vit", "clip"], texts("a"), call=CALL))
    await until(lambda: world.embedder.running == 2)
    comparing.cancel()
    await asyncio.gather(comparing, return_exceptions=True)

    assert comparing.cancelled()
    assert world.embedder.running == 0


async def test_similarities_are_the_cosines_of_each_models_own_vectors() -> None:
    answer = await World().compare()(["clip"], [Ok(Image(b"p")), *texts("a", "b")], call=CALL)

    vectors = np.array([vector_of(content) for content in (b"p", b"a", b"b")])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert matrix(compared(answer, 0).similarities) == pytest.approx(units @ units.T, abs=1e-6)


async def test_an_item_that_fails_has_no_similarities_and_leaves_its_neighbours_whole() -> None:
    world = World()
    world.embedder.fails = {b"torn": TORN}

    value = compared(await world.compare()(["clip"], texts("a", "torn", "b"), call=CALL), 0)

    assert [isinstance(outcome, Ok) for outcome in value.answer.outcomes] == [True, False, True]
    assert np.isnan(matrix(value.similarities)).tolist() == [
        [False, True, False],
        [True, True, True],
        [False, True, False],
    ]
    assert value.dimension == 4


async def test_where_every_item_failed_there_is_no_dimension() -> None:
    world = World()
    world.embedder.fails = {b"": TORN}

    value = compared(await world.compare()(["clip", "vit"], texts("a", "b"), call=CALL), 1)

    assert value.dimension == 0
    assert np.isnan(matrix(value.similarities)).all()


async def test_a_model_that_fails_as_a_whole_leaves_the_others_whole() -> None:
    world = World()

    answer = await world.compare()(["nothing", "clip", "sam", "a/b", "vit@9.9.9"], texts("a"), call=CALL)

    assert [error(answer, i).code for i in (0, 2, 3, 4)] == [
        "model_not_found",
        "capability_missing",
        "validation",
        "version_not_found",
    ]
    assert "it can segment" in error(answer, 2).detail
    assert compared(answer, 1).answer.model is CLIP


@pytest.mark.parametrize(("trouble", "code"), [(Overloaded("full"), "overloaded"), (RuntimeError("a bug"), "internal")])
async def test_models_whose_runners_fail_have_that_as_their_outcome(trouble: Exception, code: str) -> None:
    world = World()
    world.embedder.raises = trouble

    answer = await world.compare()(["clip", "vit"], texts("a"), call=CALL)

    assert [error(answer, i).code for i in (0, 1)] == [code, code]
    assert "a bug" not in error(answer, 0).detail


async def test_memory_is_the_footprint_that_the_workers_measured() -> None:
    world = World()
    world.host.views = [worker("default-1-1", holding(CLIP, bytes=7)), worker("default-2-1", holding(CLIP, bytes=9))]

    answer = await world.compare()(["clip", "vit"], texts("a"), call=CALL)

    assert [compared(answer, i).bytes for i in (0, 1)] == [9, 0]


async def test_each_model_leaves_the_records_of_its_own_embedding() -> None:
    kept = Kept()
    world = World(hooks=[kept])

    await world.compare()(["clip", "vit", "sam"], [Ok(Image(b"p")), *texts("a", "b")], call=CALL)

    assert sorted((r.model.key, r.task, r.items) for r in kept.records) == [
        ("clip@1.0.0", "embed_image", 1),
        ("clip@1.0.0", "embed_text", 2),
        ("vit@2.0.0-rc.1", "embed_image", 1),
        ("vit@2.0.0-rc.1", "embed_text", 2),
    ]


@pytest.mark.parametrize("refs", [["clip", "vit", "clip"], ["vit", "x", "vit@2.0.0-rc.1"], ["x", "clip", "x"]])
async def test_a_model_that_is_named_twice_is_refused(refs: list[str]) -> None:
    world = World()

    with pytest.raises(ValidationFailed, match=r"models\[2\] is the same as models\[0\]") as caught:
        await world.compare()(refs, texts("a"), call=CALL)

    assert (caught.value.field, caught.value.found) == ("models[2]", refs[2])
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    ("refs", "count", "kind", "field", "found"),
    [
        ([], 1, ValidationFailed, "models", "0"),
        ([f"m{i}" for i in range(MODELS + 1)], 1, LimitExceeded, "models", str(MODELS + 1)),
        (["clip"], 0, ValidationFailed, "items", "0"),
        (["clip"], ITEMS + 1, LimitExceeded, "items", str(ITEMS + 1)),
    ],
)
async def test_the_numbers_of_models_and_items_are_checked_first(
    refs: list[str], count: int, kind: type[ModelMoraError], field: str, found: str
) -> None:
    world = World(limits=MANY)

    with pytest.raises(kind) as caught:
        await world.compare()(refs, texts(*["a"] * count), call=CALL)

    assert (caught.value.field, caught.value.found) == (field, found)
    assert world.embedder.asked == []


async def test_what_a_deployment_allows_in_one_request_holds_here_too() -> None:
    with pytest.raises(LimitExceeded, match="9 items"):
        await World().compare()(["clip"], texts(*["a"] * 9), call=CALL)


@pytest.mark.parametrize(
    ("refs", "contents", "code"),
    [
        (["nothing"], ["a", "b"], "model_not_found"),
        (["clip"], ["torn"], "invalid_input"),
        (["clip"], ["torn", "a"], None),
        (["clip", "vit"], ["torn"], None),
        (["nothing", "sam"], ["a"], None),
        (["clip"], ["a"], None),
    ],
)
async def test_the_error_of_the_only_model_or_of_its_only_item_is_that_of_the_request(
    refs: list[str], contents: list[str], code: str | None
) -> None:
    world = World()
    world.embedder.fails = {b"torn": TORN}

    sole = (await world.compare()(refs, texts(*contents), call=CALL)).sole_error()

    assert (sole and sole.code) == code


def test_a_vector_is_exactly_like_itself_and_like_one_of_another_length() -> None:
    found = matrix(cosines([vector(0.1, 0.2, 0.7), vector(0.2, 0.4, 1.4), vector(-0.1, -0.2, -0.7)]))

    assert np.diag(found).tolist() == [1.0, 1.0, 1.0]
    assert found[0] == pytest.approx([1, 1, -1])
    assert abs(found).max() <= 1.0
    assert (found == found.T).all()


def test_a_vector_without_a_direction_is_like_nothing() -> None:
    found: Any = matrix(cosines([vector(0, 0), vector(3, 4), None]))

    assert np.isnan(found[[0, 2]]).all()
    assert np.isnan(found[:, [0, 2]]).all()
    assert found[1, 1] == 1.0


def test_without_vectors_every_place_is_empty() -> None:
    assert np.isnan(matrix(cosines([None, None]))).all()
    assert cosines([]).shape == (0, 0)
