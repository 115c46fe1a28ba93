"""Which models are evicted, and what is said when nothing helps."""

import pytest

from modelmora.domain.memory import Held, evictions
from modelmora.errors import OutOfMemory

MIB = 2**20
OLD, MID, NEW = (Held(model=m, bytes=100 * MIB) for m in ("old@1.0.0", "mid@1.0.0", "new@1.0.0"))


def test_nothing_goes_while_there_is_room() -> None:
    assert evictions([OLD], 100 * MIB, 200 * MIB) == []


def test_the_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    assert evictions([OLD, MID, NEW], 50 * MIB, 300 * MIB) == ["old@1.0.0"]


def test_busy_and_pinned_models_stay() -> None:
    busy = Held(model="busy@1.0.0", bytes=100 * MIB, busy=True)
    pinned = Held(model="pinned@1.0.0", bytes=100 * MIB, pinned=True)
    assert evictions([busy, pinned, NEW], 100 * MIB, 300 * MIB) == ["new@1.0.0"]


def test_what_does_not_fit_is_named_with_those_who_hold_the_room() -> None:
    busy = Held(model="busy@1.0.0", bytes=100 * MIB, busy=True)
    with pytest.raises(OutOfMemory, match=r"big@1.0.0 needs 250 MiB and 200 MiB .* held by busy@1.0.0 100 MiB"):
        evictions([busy, OLD], 250 * MIB, 300 * MIB, model="big@1.0.0")


def test_a_budget_of_zero_means_no_limit() -> None:
    assert evictions([OLD], 10**15, 0) == []
