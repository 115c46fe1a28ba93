"""What the benchmark makes of its windows, and how it prints it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from load.bench import tables
from load.bench.plan import Party, Point
from load.bench.results import Run, Window, compare

HTTP_32, HTTP_8 = Point("http", 32), Point("http", 8)


def a_window(
    party: Party, pair: int | None = 0, *, items: int = 100, cpu_s: float = 10.0, wall_s: float = 10.0
) -> Window:
    return Window(party=party, point=HTTP_32, pair=pair, items=items, wall_s=wall_s, cpu_s={"modelmora": cpu_s})


def a_pass(pair: int, *, machine: float = 1.0, ours_cpu_s: float = 11.0, bentoml_s: float = 12.0) -> list[Window]:
    """Three windows on a machine that is `machine` times as slow."""
    return [
        a_window("ours", pair, cpu_s=ours_cpu_s * machine, wall_s=10.0 * machine),
        a_window("reference", pair, cpu_s=10.0 * machine, wall_s=9.0 * machine),
        a_window("bentoml", pair, cpu_s=15.0 * machine, wall_s=bentoml_s * machine),
    ]


def a_run(windows: list[Window], point: Point = HTTP_32) -> Run:
    found = [replace(window, point=point) for window in windows]
    run = Run(model="vit-b-32", machine={"processor": "a processor", "cores": 2}, conditions={"window_s": 25.0})
    run.windows.extend(found)
    run.comparisons.append(compare(found, point, "stable"))
    return run


def test_a_window_knows_its_speed_and_its_cpu_over_all_processes() -> None:
    window = replace(a_window("ours"), cpu_s={"modelmora": 2.0, "runner-default": 8.0}, wall_s=5.0)
    assert (window.per_s, window.cpu_ms) == (20.0, 100.0)


def test_ratios_are_those_of_neighbours_and_not_of_averages() -> None:
    windows = [*a_pass(0), *a_pass(1, machine=2.0), *a_pass(2, machine=0.5)]
    found = compare(windows, HTTP_32, "stable")
    cpu, speed = found.of("cpu", "reference"), found.of("speed", "bentoml")
    assert cpu is not None
    assert speed is not None
    assert (cpu.low, cpu.high, speed.median) == pytest.approx((1.1, 1.1, 1.2))


def test_latencies_have_a_ratio_where_both_parties_have_them() -> None:
    ours, loop, plain = a_pass(0)
    found = compare([replace(ours, p99_ms=60.0), loop, replace(plain, p99_ms=100.0)], HTTP_32, "stable")
    p99 = found.of("p99", "bentoml")
    assert p99 is not None
    assert p99.median == pytest.approx(0.6)
    assert found.of("p99", "reference") is None


def test_a_pass_that_broke_off_gives_no_pair() -> None:
    windows = [*a_pass(0), a_window("ours", 1)]
    found = compare(windows, HTTP_32, "unstable")
    cpu = found.of("cpu", "reference")
    assert cpu is not None
    assert cpu.count == 1


def test_windows_of_other_points_and_unpaired_ones_make_no_ratio() -> None:
    windows = [a_window("ours", None), *(replace(window, point=HTTP_8) for window in a_pass(0))]
    assert not compare(windows, HTTP_32, "unstable").ratios


def test_disturbed_windows_are_counted_beside_the_ratio() -> None:
    windows = a_pass(0)
    windows[1] = replace(windows[1], foreign_cores=0.5)
    assert compare(windows, HTTP_32, "stable").disturbed == 1


def test_the_table_shows_every_party_and_the_spread_of_the_ratios() -> None:
    text = tables.markdown(a_run([*a_pass(0), *a_pass(1, ours_cpu_s=12.0)]))
    assert "| http:32 | reference | 2 | 11.1 | 100.00 |" in text
    assert "| http:32 | reference | 2 | 1.15 [1.10 .. 1.20] |" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    rows = [line for line in tables.markdown(a_run(a_pass(0))).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows[:5]}) == 1
    assert len({line.count("|") for line in rows[5:]}) == 1


def test_failed_requests_of_ours_are_said_even_when_there_are_none() -> None:
    assert tables.promised(a_run(a_pass(0)))[-1].endswith("over all windows: 0.")
    failing = [replace(window, failed=3) for window in a_pass(0)]
    assert tables.promised(a_run(failing))[-1].endswith("over all windows: 3.")


def test_a_run_becomes_json_with_every_attempt() -> None:
    content = json.loads(json.dumps(asdict(a_run([*a_pass(0), *a_pass(1)]))))
    assert len(content["windows"]) == 6
    assert content["comparisons"][0]["ratios"]["cpu/reference"]["count"] == 2


def test_a_quick_run_says_that_it_is_no_number() -> None:
    run = a_run(a_pass(0))
    run.conditions["quick"] = True
    assert "too short for a number" in tables.markdown(run)
