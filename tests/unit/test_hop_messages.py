"""What crosses the hop between an API worker and a runner, cut into messages that can be carried."""

from __future__ import annotations

import numpy as np
import pytest

from modelmora.domain.tensors import Tensor
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2
from runners.hop import wire
from runners.inputs.arrays import to_array, to_tensor
from runners.payload import Parcel


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MESSAGE_BYTES", 1_000)


def test_what_fits_into_one_message_is_sent_as_it_is() -> None:
    whole = pb.InferRequest(work=[pb.Work(id=1, data=b"a")], cancel=[7])

    [only] = wire.in_messages(whole)

    assert only is whole


def test_many_works_leave_in_several_messages_none_lost_in_their_order() -> None:
    whole = pb.InferRequest(work=[pb.Work(id=number, data=bytes(300)) for number in range(10)], cancel=[7, 8])

    parts = list(wire.in_messages(whole))

    assert [work.id for part in parts for work in part.work] == list(range(10))
    assert [[*part.cancel] for part in parts] == [[7, 8], [], [], []]
    assert all(part.ByteSize() <= 1_100 for part in parts)


def test_an_item_that_is_larger_than_a_message_goes_alone() -> None:
    results = [pb.Result(id=1, vector=bytes(10)), pb.Result(id=2, vector=bytes(5_000)), pb.Result(id=3)]
    whole = pb.InferReply(results=results, told=[pb.Told(id=9, stage="queued")])

    parts = list(wire.in_messages(whole))

    assert [[result.id for result in part.results] for part in parts] == [[1], [2], [3]]
    assert [[told.id for told in part.told] for part in parts] == [[9], [], []]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.array([[True], [False]]),
        np.zeros((0, 4), np.int64),
        np.array([b"", b"a\0b", "é".encode()], dtype=object),
        np.array(3.5),
    ],
)
def test_a_parcel_crosses_as_it_is(array: np.ndarray) -> None:
    sent = Parcel(tensors={"x": array}, options={"deep": {"list": [1, None]}}, rows=3)

    came = wire.parcel_of(pb.Parcel.FromString(wire.parcel_to_wire(sent).SerializeToString()))

    assert came.tensors["x"].tolist() == array.tolist()
    assert (came.tensors["x"].shape, came.tensors["x"].dtype) == (array.shape, array.dtype)
    assert (came.options, came.rows) == (sent.options, 3)
    assert to_array(to_tensor(array)).tolist() == array.tolist()


def test_bytes_that_do_not_fit_their_shape_are_an_error() -> None:
    for tensor in (
        Tensor(dtype="float32", shape=(2,), data=b"1234"),
        Tensor(dtype="bytes", shape=(2,), data=b"\1\0\0\0a"),
    ):
        with pytest.raises(ValueError, match=r"reshape|elements"):
            to_array(tensor)


def test_an_error_keeps_its_code_and_place() -> None:
    told = wire.error_of(types_pb2.ItemError(code="schema_mismatch", detail="no", field="inputs.x"))

    assert (told.code, told.detail, told.field) == ("schema_mismatch", "no", "inputs.x")
