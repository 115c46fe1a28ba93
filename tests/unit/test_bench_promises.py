"""What the benchmark promises of its ratios, and beside whom."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from load.bench.plan import Party, Point
from load.bench.promises import PROMISES, decisive, judge
from load.bench.results import Comparison, Quantity, Run, Window, compare

Measured = Mapping[Party, tuple[float, float, float]]
"""Of each party: items a second, CPU ms an item, and its p50 and p99 in ms."""


def a_comparison(point: Point, measured: Measured) -> Comparison:
    windows = [
        Window(
            party=party, point=point, pair=0, items=1000, wall_s=1000 / per_s, cpu_s={"all": cpu_ms}, p50_ms=ms,
            p99_ms=ms,
        )
        for party, (per_s, cpu_ms, ms) in measured.items()
    ]  # fmt: skip
    return compare(windows, point, "stable")


def said(point: Point, measured: Measured, *, precision: str = "fp32", model: str = "vit-b-32") -> list[str]:
    run = Run(model=model, machine={}, conditions={"precision": precision})
    run.comparisons.append(a_comparison(point, measured))
    return [str(found) for found in judge(run)]


def http(callers: int) -> Point:
    return Point("http", callers)


@pytest.mark.parametrize("callers", [32, 64])
@pytest.mark.parametrize(("cpu_ms", "verdict"), [(105.9, ": held"), (106.1, "NOT held")])
def test_cpu_per_picture_is_promised_against_the_reference_loop(callers: int, cpu_ms: float, verdict: str) -> None:
    (line,) = said(http(callers), {"ours": (1, cpu_ms, 1), "reference": (1, 100, 1)})
    assert "CPU per item" in line
    assert "the reference loop, at most 1.06x" in line
    assert verdict in line


@pytest.mark.parametrize(
    ("per_s", "p99_ms", "verdicts"),
    [(12.6, 69.0, (True, True)), (12.4, 69.0, (False, True)), (12.6, 71, (True, False))],
)
def test_at_eight_callers_speed_and_p99_are_promised_against_bentoml(
    per_s: float, p99_ms: float, verdicts: tuple[bool, bool]
) -> None:
    lines = said(http(8), {"ours": (per_s, 1, p99_ms), "bentoml": (10, 1, 100)})
    assert [": held" in line for line in lines] == list(verdicts)
    assert "at least 1.25x" in lines[0]
    assert "p99" in lines[1]


def test_a_lone_caller_waits_hardly_longer_than_the_loop_takes_for_one() -> None:
    (line,) = said(http(1), {"ours": (1, 1, 52.4), "reference": (1, 1, 50), "bentoml": (1, 1, 90)})
    assert "p50" in line
    assert ": held" in line


def test_in_another_precision_the_better_litserve_is_the_rival() -> None:
    measured: Measured = {"ours": (30, 1, 1), "litserve": (15, 1, 1), "litserve-tuned": (16, 1, 1)}
    (line,) = said(http(32), measured, precision="bf16")
    assert "1.875x LitServe tuned, at least 1.9x: NOT held" in line


def test_in_fp32_tuned_litserve_is_the_rival_and_the_large_gain_is_not_promised() -> None:
    measured: Measured = {"ours": (16, 1, 1), "litserve": (15, 1, 1), "litserve-tuned": (16.4, 1, 1)}
    (line,) = said(http(32), measured)
    assert "LitServe tuned, at least 0.97x: held" in line


def test_what_was_not_measured_is_not_judged() -> None:
    assert said(http(32), {"ours": (1, 1, 1)}) == []
    assert said(Point("grpc", 8), {"ours": (1, 1, 1), "reference": (1, 1, 1)}) == []


def test_nothing_is_promised_of_other_models() -> None:
    assert said(http(32), {"ours": (1, 1, 1), "reference": (1, 1, 1)}, model="shapes-clip") == []


def test_p99_scatters_too_much_to_decide_when_a_point_is_stable() -> None:
    found = a_comparison(http(8), {"ours": (1, 1, 1), "bentoml": (1, 1, 50), "reference": (1, 1, 1)})
    assert found.of("p99", "bentoml") not in decisive(found)
    assert found.of("speed", "bentoml") in decisive(found)
    assert found.of("cpu", "reference") in decisive(found)


def test_each_promise_bounds_one_side() -> None:
    quantities: set[Quantity] = {promise.quantity for promise in PROMISES}
    assert quantities == {"cpu", "speed", "p50", "p99"}
    assert all((promise.most is None) != (promise.least is None) for promise in PROMISES)
