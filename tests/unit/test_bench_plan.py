"""What the benchmark measures in which order, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from load.bench.plan import ALL_POINTS, PAIRED_POINTS, PARTIES, Budget, Party, Point, decide, order, parties

BUDGET = Budget(window_s=25.0, lead_s=3.0)


def test_a_point_reads_as_it_is_written() -> None:
    assert Point.parse("grpc:32") == Point("grpc", 32)
    assert str(Point("http", 8)) == "http:8"


@pytest.mark.parametrize("text", ["", "http", "http:", "http:0", "ftp:8", "http:8:8", "http:-1"])
def test_anything_else_is_no_point(text: str) -> None:
    with pytest.raises(ValueError, match="such as http:8"):
        Point.parse(text)


def test_every_paired_point_is_measured_by_default() -> None:
    assert set(ALL_POINTS) >= PAIRED_POINTS
    assert {str(point) for point in PAIRED_POINTS} == {"http:1", "http:8", "http:32", "grpc:32"}


def test_every_other_pass_goes_back_so_that_drift_favours_nobody() -> None:
    assert order(0) == ("ours", "reference", "bentoml")
    assert order(1) == ("bentoml", "reference", "ours")
    assert order(2) == order(0)


def test_more_parties_go_there_and_back_too() -> None:
    assert order(1, ("ours", "litserve")) == ("litserve", "ours")


def test_litserve_stands_for_the_ways_in_which_it_is_to_run() -> None:
    both: tuple[Party, ...] = ("litserve", "litserve-tuned")
    assert parties("litserve, reference,ours", litserve=both) == ("ours", "reference", *both)
    assert parties("ours,litserve", litserve=("litserve-tuned",)) == ("ours", "litserve-tuned")
    assert parties(",".join(PARTIES), litserve=both) == PARTIES


@pytest.mark.parametrize(("text", "said"), [("ours,triton", "'triton' is not a party"), ("reference", "name ours")])
def test_other_parties_are_refused_and_ours_is_always_there(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parties(text, litserve=("litserve",))


def test_more_parties_get_more_time_for_a_point() -> None:
    five = replace(BUDGET, parties=5)
    assert five.pass_s == pytest.approx(BUDGET.pass_s * 5 / 3)
    assert decide(4, False, elapsed_s=4 * five.pass_s, budget=five) is None


def test_fewer_pairs_than_asked_for_are_never_enough() -> None:
    assert decide(4, True, elapsed_s=0.0, budget=BUDGET) is None


def test_enough_pairs_that_agree_are_stable() -> None:
    assert decide(5, True, elapsed_s=400.0, budget=BUDGET) == "stable"


def test_pairs_that_scatter_are_measured_again_while_there_is_time() -> None:
    assert decide(5, False, elapsed_s=400.0, budget=BUDGET) is None


def test_a_point_that_does_not_settle_in_its_time_is_unstable() -> None:
    assert decide(7, False, elapsed_s=BUDGET.point_s - BUDGET.pass_s + 1, budget=BUDGET) == "unstable"


def test_a_pass_that_would_not_end_in_time_is_not_begun() -> None:
    slow = replace(BUDGET, window_s=200.0)
    assert decide(1, False, elapsed_s=slow.pass_s, budget=slow) == "unstable"


def test_sixty_four_callers_are_served_for_a_minute() -> None:
    assert BUDGET.unpaired_s(Point("http", 64)) == 60.0
    assert BUDGET.unpaired_s(Point("grpc", 8)) == 25.0
    assert replace(BUDGET, window_s=90.0).unpaired_s(Point("http", 64)) == 90.0
