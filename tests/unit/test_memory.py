"""Which models are evicted, what is said when nothing helps, and which were idle for too long."""

import pytest

from modelmora.domain.memory import Held, Resting, evictions, idle
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


def test_only_models_on_the_same_device_go_or_count() -> None:
    there = Held(model="there@1.0.0", bytes=100 * MIB, device="cuda:0")
    assert evictions([OLD, there, NEW], 200 * MIB, 200 * MIB, device="cuda:0") == ["there@1.0.0"]
    assert evictions([OLD, there], 100 * MIB, 100 * MIB, device="cuda:1") == []


def test_what_does_not_fit_names_its_device_and_nobody_on_another() -> None:
    there = Held(model="there@1.0.0", bytes=100 * MIB, device="cuda:0", pinned=True)
    with pytest.raises(OutOfMemory) as caught:
        evictions([OLD, there], 200 * MIB, 200 * MIB, device="cuda:0")
    assert "the budget of 200 MiB on cuda:0 can be freed; held by there@1.0.0 100 MiB (pinned);" in caught.value.detail


def test_nobody_idles_out_before_the_time() -> None:
    assert idle([Resting(model="a", ttl_s=60.0, used_at=100.0)], 159.9) == ([], 160.0)


def test_those_whose_time_is_over_go_and_the_next_moment_is_the_earliest_of_the_others() -> None:
    resting = [
        Resting(model="a", ttl_s=60.0, used_at=100.0),
        Resting(model="b", ttl_s=90.0, used_at=100.0),
        Resting(model="c", ttl_s=70.0, used_at=100.0),
    ]
    assert idle(resting, 160.0) == (["a"], 170.0)


def test_a_busy_model_has_its_whole_time_before_it() -> None:
    assert idle([Resting(model="a", ttl_s=60.0, used_at=0.0, busy=True)], 1_000.0) == ([], 1_060.0)


def test_without_any_such_model_there_is_no_moment_to_wait_for() -> None:
    assert idle([], 5.0) == ([], None)
