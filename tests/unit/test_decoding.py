"""Bodies are let in before they are looked at: so many bytes at once, and none while no item would be taken."""

from __future__ import annotations

import pytest

from modelmora.errors import Overloaded
from modelmora.usecases.decoding import Decoding
from tests.fakes import FakeCapacity


def test_bodies_are_let_in_up_to_a_number_of_bytes_and_leave_room_behind() -> None:
    decoding = Decoding(FakeCapacity(), most_bytes=100)

    with decoding.admitted(60), decoding.admitted(40):
        with pytest.raises(Overloaded, match="bodies of 100 bytes are under way") as raised:
            decoding.admitted(1).__enter__()
        assert raised.value.retry_after_s
    with decoding.admitted(100):
        pass


def test_one_alone_may_be_larger_than_all_the_room() -> None:
    decoding = Decoding(FakeCapacity(), most_bytes=100)

    with decoding.admitted(1_000), pytest.raises(Overloaded):
        decoding.admitted(1).__enter__()


def test_one_that_fails_leaves_its_room_behind() -> None:
    decoding = Decoding(FakeCapacity(), most_bytes=100)

    with pytest.raises(ValueError, match="broken"), decoding.admitted(100):
        raise ValueError("broken")

    with decoding.admitted(100):
        pass


def test_nothing_is_decoded_whose_items_would_not_be_taken() -> None:
    capacity = FakeCapacity(most=0)

    with pytest.raises(Overloaded, match="items are under way"):
        Decoding(capacity).admitted(1).__enter__()


def test_the_items_themselves_take_their_room_later() -> None:
    capacity = FakeCapacity(most=1)

    with Decoding(capacity).admitted(1), capacity.permit(1):
        assert capacity.taken == 1
