"""What Qdrant keeps and says, without it: vectors, values in words, failures."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from adapters.vectors.failures import MISSING, REFUSED, said_by, status_of, unavailable
from adapters.vectors.payloads import numbers, value_of, word_of
from modelmora.errors import ValidationFailed

values = st.one_of(
    st.text(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)


@given(values)
def test_a_value_in_words_is_the_value_again(value: str | int | float | bool) -> None:
    again = value_of(word_of(value))
    assert (type(again), again) == (type(value), value)


@given(values, values)
def test_two_values_are_one_word_where_they_are_one_value_of_one_kind(one: object, other: object) -> None:
    assert (word_of(one) == word_of(other)) == (type(one) is type(other) and one == other)  # type: ignore[arg-type]


def test_no_zero_is_less_than_another() -> None:
    assert word_of(-0.0) == word_of(0.0) != word_of(0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_vectors_are_brought_to_length_1(scale: float) -> None:
    told = numbers((np.array([3, 4], "<f4") * np.float32(scale)).tobytes(), dimension=2, name="mm-a")
    assert told == pytest.approx([0.6, 0.8])
    assert numbers([0.0, 0.0], dimension=2, name="mm-a") == [0.0, 0.0]


@pytest.mark.parametrize(
    ("vector", "found"),
    [
        (b"", "0 numbers"),
        (b"\0" * 7, "1.75 numbers"),
        ([1.0] * 3, "3 numbers"),
        ([1.0, float("inf")], "NaN or infinity"),
        (np.array([np.nan, 1], "<f4").tobytes(), "NaN or infinity"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vector: list[float] | bytes, found: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        numbers(vector, dimension=2, name="mm-a")
    assert (caught.value.field, caught.value.found) == ("vector", found)


class CallFailed(grpc.RpcError):
    """As gRPC raises it."""

    def __init__(self, status: grpc.StatusCode, said: str) -> None:
        super().__init__("<a text of many lines>")
        self._status, self._said = status, said

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._said


def rest(status: int, content: str) -> UnexpectedResponse:
    return UnexpectedResponse(status, "Reason", content.encode(), None)  # type: ignore[arg-type] # headers are not read


NO_COLLECTION = "Not found: Collection `mm-a` doesn't exist!"


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (ValueError("Collection mm-a not found"), MISSING),
        (rest(404, '{"status":{"error":"' + NO_COLLECTION + '"}}'), MISSING),
        (CallFailed(grpc.StatusCode.NOT_FOUND, NO_COLLECTION), MISSING),
        (ValueError("could not broadcast"), REFUSED),
        (rest(400, "Wrong input: Vector dimension error: expected dim: 3, got 2"), REFUSED),
        (CallFailed(grpc.StatusCode.INVALID_ARGUMENT, "Wrong input"), REFUSED),
        (rest(404, "<html>nginx</html>"), None),
        (rest(503, "Collection is loading"), None),
        (CallFailed(grpc.StatusCode.UNAVAILABLE, "Connection refused"), None),
        (CallFailed(grpc.StatusCode.NOT_FOUND, "no such service"), None),
        (ResponseHandlingException(OSError("Connection refused")), None),
        (OSError("No space left on device"), None),
    ],
)
def test_what_a_failure_means_is_read_alike_from_a_folder_rest_and_grpc(cause: Exception, status: int | None) -> None:
    assert status_of(cause) == status


def test_a_failure_is_told_in_one_line_with_its_place_and_its_setting() -> None:
    error = unavailable("grpc://host:6334", CallFailed(grpc.StatusCode.UNAVAILABLE, "no\n  route"))
    assert error.detail == (
        "the vector store grpc://host:6334 does not answer: no route; MODELMORA_VECTORS_URL names it"
    )
    assert said_by(rest(401, '{"error":\n "Must provide an API key"}')) == '401 {"error": "Must provide an API key"}'
    assert said_by(ResponseHandlingException(OSError("Connection refused"))) == "Connection refused"
    assert said_by(TimeoutError()) == "TimeoutError"
    assert len(said_by(ValueError("x" * 9_999))) == 300
