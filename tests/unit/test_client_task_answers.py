"""What the client makes of bad answers to classify, segment, predict and compare."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from modelmora.client import Box, Comparison, Embedding, Failed, Ok, Outcome
from modelmora.client.answers import Answer
from modelmora.client.comparison import completed, passing, square, taken
from modelmora.client.grpc_segmentation import segmented as segmented_by_grpc
from modelmora.client.grpc_tasks import _classified as classified_by_grpc
from modelmora.client.grpc_tasks import _compared as compared_by_grpc
from modelmora.client.http_segmentation import segmented
from modelmora.client.http_tasks import _classified, _compared, _predicted
from modelmora.errors import InternalError, InvalidInput, Overloaded
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import types_pb2

SERVED = {"model": "m", "version": "1.0.0"}
ANSWER = Answer(model="m", version="1.0.0")
MASK = {"rle": {"size": [2, 4], "counts": "08"}, "score": 0.5, "area": 8, "box": [0, 0, 4, 2]}
LINE = {**SERVED, "index": 0, "height": 2, "width": 4, "masks": [MASK]}
ROW = {
    **SERVED,
    "index": 0,
    "dimension": 1,
    "bytes": 1,
    "total_ms": 1.0,
    "timings": {"queue_ms": 1.0},
    "similarities": [[1.0]],
    "results": [{"index": 0, "embedding": "AACAPw=="}],
}


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        SERVED,
        {**SERVED, "data": [{"index": 0}]},
        {**SERVED, "data": [{"index": 0, "classes": [{"label": "cat"}]}]},
        {**SERVED, "data": [{"index": 0, "classes": 3}]},
        {**SERVED, "data": [{"index": "first", "classes": []}]},
        {**SERVED, "data": [{"index": 0, "error": {}}]},
    ],
)
def test_classes_of_another_shape_are_the_servers_defect(body: Any) -> None:
    with pytest.raises(InternalError, match="another shape"):
        _classified(1, body, "")


@pytest.mark.parametrize(
    "change",
    [
        {"index": None},
        {"masks": None},
        {"masks": [{}]},
        {"height": "two"},
        {"masks": [{**MASK, "box": [0, 0, 1]}]},
        {"masks": [{**MASK, "rle": {"counts": "ä"}}]},
        {"masks": [{**MASK, "logits": "%%%"}]},
        {"masks": [{**MASK, "logits": "AAAA"}]},
        {"error": "bad"},
    ],
)
def test_masks_of_another_shape_are_the_servers_defect(change: dict[str, Any]) -> None:
    assert isinstance(segmented(LINE)[1], Ok)
    with pytest.raises(InternalError):
        segmented({**LINE, **change})


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        {"scores": None},
        {"scores": {"dtype": "float32", "shape": [1], "data": [1.0]}},
        {"scores": {"dtype": "float32", "shape": [1], "data": "%%%"}},
        {"scores": {"dtype": "float32", "shape": [2], "data": "AACAPw=="}},
        {"scores": {"dtype": "float32", "shape": None, "data": "AACAPw=="}},
    ],
)
def test_outputs_of_another_shape_are_the_servers_defect(outputs: Any) -> None:
    with pytest.raises(InternalError):
        _predicted({**SERVED, "outputs": outputs}, "")


@pytest.mark.parametrize(
    "change",
    [
        {"similarities": [[1.0, 0.0]]},
        {"similarities": None},
        {"similarities": [["near"]]},
        {"results": None},
        {"timings": None},
    ],
)
def test_comparisons_of_another_shape_are_the_servers_defect(change: dict[str, Any]) -> None:
    assert isinstance(_compared(ROW, [0]), Ok)
    with pytest.raises((InternalError, AttributeError, TypeError)):  # the latter become the former around all rows
        _compared({**ROW, **change}, [0])


def test_what_grpc_leaves_out_is_told_of_the_item() -> None:
    empty = classified_by_grpc(pb.ClassifyResult(index=3), ANSWER)
    assert isinstance(empty, Failed)
    assert "item 3 with neither classes nor error" in empty.error.detail
    logits = types_pb2.Vector(data=b"12", shape=[1])
    broken = segmented_by_grpc(pb.SegmentResponse(masks=[pb.Mask(data=b"08", logits=logits)], height=2, width=4))
    assert isinstance(broken, Failed)
    assert "logits" in broken.error.detail
    with pytest.raises(InternalError, match="other similarities"):
        compared_by_grpc(pb.Comparison(similarities=types_pb2.Vector(data=b"1234", shape=[1])), 1)


def comparison(*results: Outcome[Embedding]) -> Comparison:
    count = len(results)
    values = [float(10 * row + column) for row in range(count) for column in range(count)]
    return Comparison(
        model="m", version="1.0.0", results=results, dimension=1, bytes=0, similarities=square(values, count)
    )


def vector(value: float) -> Outcome[Embedding]:
    return Ok(Embedding(data=np.array([value], "<f4").tobytes(), model="m", version="1.0.0"))


def test_items_are_put_into_another_order_with_their_similarities() -> None:
    one, two, three = vector(1), vector(2), vector(3)
    moved = taken(comparison(one, two, three), [2, 0, 1])
    assert moved.results == (three, one, two)
    assert moved.similarities.tolist() == [[22, 20, 21], [2, 0, 1], [12, 10, 11]]


def test_items_that_were_not_sent_leave_gaps() -> None:
    one, two, unread = vector(1), vector(2), Failed(InvalidInput("unreadable"))
    items: list[Outcome[str]] = [unread, Ok("one"), Ok("two")]
    whole = completed(comparison(one, two), items)
    assert whole.results == (unread, one, two)
    rows = whole.similarities.tolist()
    assert all(math.isnan(value) for value in [*rows[0], rows[1][0], rows[2][0]])
    assert [row[1:] for row in rows[1:]] == [[0, 1], [10, 11]]


def test_a_model_is_asked_again_only_when_nothing_came_of_it() -> None:
    busy, torn = Failed(Overloaded("busy", retry_after_s=2.0)), Failed(InvalidInput("torn"))
    whole = passing(Ok(comparison(busy, Failed(Overloaded("busy")))))
    assert whole == busy
    for kept in (comparison(busy, torn), comparison(busy, vector(1)), comparison(vector(1))):
        assert passing(Ok(kept)) == Ok(kept)
    assert passing(torn) is torn


def test_a_box_of_an_answer_is_of_numbers() -> None:
    outcome = segmented(LINE)[1]
    assert isinstance(outcome, Ok)
    assert outcome.value.masks[0].box == Box(left=0.0, top=0.0, right=4.0, bottom=2.0)
