"""What the benchmark's scenarios make of what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner

from load.bench import bad, lru, soak, swap, zoo
from load.bench.__main__ import main
from load.bench.control import total
from load.bench.lru import Event, Evicted, Replay, Used
from load.bench.plan import Point
from load.bench.resident import Memory, Sampler, of_role, sizes
from load.bench.results import Window
from load.bench.soak import Quarter
from load.bench.swap import Phases
from load.bench.verdicts import Line, Report
from load.bench.zoo import Seen
from tests.support import wait_until

METRICS = """# HELP modelmora_bisect_forwards_total Extra forwards to find what is at fault
# TYPE modelmora_bisect_forwards_total counter
modelmora_bisect_forwards_total{model="noop",version="1.0.0",task="embed_text"} 40.0
modelmora_bisect_forwards_total{model="noop",version="1.0.0",task="embed_image"} 2.0
modelmora_bisect_forwards_total{model="other",version="1.0.0",task="embed_text"} 5.0
modelmora_bisect_forwards_total{model="other",base_model="noop",version="1.0.0",task="embed_text"} 3.0
modelmora_bisect_forwards_created{model="noop",version="1.0.0",task="embed_text"} 1.7e+09
modelmora_ready 1.0
"""


def a_window(*, failed: int = 0, refused: int = 0, p99_ms: float = 10.0) -> Window:
    return Window(
        party="ours", point=Point("http", 32), pair=None, items=900, wall_s=60.0, cpu_s={"modelmora": 1.0},
        failed=failed, refused=refused, p50_ms=5.0, p99_ms=p99_ms,
    )  # fmt: skip


def held(report: Report) -> list[bool]:
    return [line.held for line in report.lines]


def test_a_metric_is_summed_over_every_label_that_was_not_asked_for() -> None:
    assert total(METRICS, "modelmora_bisect_forwards_total", model="noop") == 42.0
    assert total(METRICS, "modelmora_bisect_forwards_total") == 50.0
    assert total(METRICS, "modelmora_ready") == 1.0
    assert total(METRICS, "modelmora_model_evictions_total") == 0.0


def test_finding_a_bad_item_may_take_twice_the_logarithm_of_the_batch() -> None:
    assert held(bad.forward_report(a_window(refused=100), 800.0)) == [True, True]
    assert held(bad.forward_report(a_window(refused=100), 801.0)) == [False, True]


def test_a_run_in_which_nothing_was_searched_proves_nothing() -> None:
    assert not bad.forward_report(a_window(refused=100), 0.0).held


def test_a_good_item_that_fails_beside_bad_ones_breaks_the_promise() -> None:
    assert not bad.forward_report(a_window(refused=100, failed=1), 100.0).held


def uses(models: str) -> list[Event]:
    return [Used(model) for model in models]


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (Evicted("b"), Replay(oldest=1)),
        (Evicted("c", ["b"]), Replay(forced=1)),
        (Evicted("a", ["c", "b"]), Replay(forced=1)),
        (Evicted("c"), Replay(wrong=1)),
        (Evicted("b", ["c"]), Replay(wrong=1)),
        (Evicted("a", ["b"]), Replay(wrong=1)),
        (Evicted("z"), Replay(wrong=1)),
        (Evicted("b", short=False), Replay(wrong=1)),
    ],
)
def test_an_eviction_takes_the_least_recently_used_one_that_is_not_in_use(gone: Evicted, expected: Replay) -> None:
    assert lru.replay([*uses("abca"), gone]) == expected


def test_a_replay_goes_on_with_what_is_left() -> None:
    events = [*uses("abc"), Evicted("a"), *uses("db"), Evicted("c"), *uses("a"), Evicted("d"), Evicted("a", ["b"])]
    assert lru.replay(events) == Replay(oldest=3, forced=1)


def test_the_log_of_uses_is_read_between_other_lines() -> None:
    lines = [
        "Loaded", "{", json.dumps({"event": "model_used", "model": "a", "version": "1.0.0"}), "{}",
        json.dumps({"event": "model_loaded", "model": "c", "version": "1.0.0", "bytes": 1}),
        json.dumps(
            {"event": "model_evicted", "model": "b", "version": "2.0.0", "kept": ["a@1.0.0"], "need": 9, "free": 9}
        ),
    ]  # fmt: skip
    assert list(zoo.events(lines)) == [Used("a@1.0.0"), Used("c@1.0.0"), Evicted("b@2.0.0", ["a@1.0.0"], short=False)]


def seen(*, peak: int = 900, evictions: int = 40, wrong: int = 0) -> Seen:
    return Seen(
        budget=600, footprint=170, baseline=Memory(300, 200), peak=Memory(peak, 500), evictions=evictions,
        loads=43, replay=Replay(oldest=31 - wrong, forced=9, wrong=wrong), window=a_window(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True]),
        ({"peak": 300 + 660}, [True, True, True]),
        ({"peak": 300 + 661}, [True, False, True]),
        ({"evictions": 41}, [True, True, False]),
        ({"wrong": 1}, [True, True, False]),
        ({"evictions": 0}, [True, True, False]),
    ],
)
def test_the_zoo_keeps_within_its_budget_and_evicts_as_lru_does(changes: dict[str, int], expected: list[bool]) -> None:
    assert held(zoo.report(seen(**changes))) == expected


def test_the_zoo_is_one_group_of_six_models_with_one_budget(tmp_path: Path) -> None:
    file = yaml.safe_load(zoo.registry([tmp_path / f"zoo-{number}" for number in range(6)], 10**9))
    assert file["groups"]["default"] == {"workers": 1, "resources": {"memory": 10**9}}
    assert [model["default"] for model in file["models"]] == [True] + [False] * 5


def quarters(*, last_mib: float = 109.0, last_p99: float = 10.9) -> list[Quarter]:
    before = Quarter(a_window(), {("modelmora", 1): 100 * 2**20, ("runner-default", 2): 500 * 2**20})
    after = {("modelmora", 1): last_mib * 2**20, ("runner-default", 2): 400 * 2**20}
    return [before, before, before, Quarter(a_window(p99_ms=last_p99), after)]


def test_a_soak_allows_a_tenth_more_memory_and_time_and_any_less() -> None:
    assert soak.report("clip", quarters()).held


def test_a_soak_in_which_one_process_grows_fails() -> None:
    report = soak.report("clip", quarters(last_mib=111.0))
    assert [line.said for line in report.lines if not line.held] == ["modelmora (1) 100 -> 111 MiB, at most 1.1x"]


def test_a_soak_that_becomes_slower_or_loses_a_process_fails() -> None:
    assert not soak.report("clip", quarters(last_p99=11.1)).held
    *first, last = quarters()
    gone = Quarter(last.window, {("runner-default", 2): 1.0})
    assert not soak.report("clip", [*first, gone]).held


def test_a_quick_run_judges_only_what_needs_no_time() -> None:
    slow, broken = Line(said="slow", held=False, timed=True), Line(said="broken", held=False)
    assert Report(title="t", head=("a",), rows=[["1"]], lines=[slow], quick=True).held
    assert not Report(title="t", head=("a",), rows=[["1"]], lines=[slow]).held
    assert not Report(title="t", head=("a",), rows=[["1"]], lines=[broken], quick=True).held


def test_a_report_says_each_promise_and_whether_it_is_held() -> None:
    text = zoo.report(seen(peak=10_000)).markdown()
    assert "| 40 | 31 | 9 |" in text
    assert "the budget and 10 %): NOT held." in text
    assert "- 0 requests failed: held." in text


def test_facts_can_be_written_as_json() -> None:
    json.dumps([zoo.report(seen()).facts, soak.report("clip", quarters()).facts])


def test_memory_is_looked_at_while_the_block_runs() -> None:
    own = psutil.Process()
    with Sampler(own, period_s=0.001) as sampler:
        wait_until(lambda: len(sampler.samples) > 2, within_s=10.0, what="three looks")
    assert sampler.peak("supervisor").resident >= own.memory_info().rss // 2
    assert 0 < sampler.peak("supervisor").own <= sampler.peak("supervisor").resident
    assert sampler.medians()["supervisor", own.pid] > 0
    assert sampler.peak("no such role") == Memory()
    assert of_role(sizes(own), "supervisor").own > 0


@pytest.mark.parametrize(
    ("during", "after", "expected"),
    [(40.0, 20.0, [True] * 4), (40.1, 20.0, [False, True, True, True]), (40.0, 20.1, [True, False, True, True])],
)
def test_a_swap_may_cost_four_times_the_latency_while_it_loads_and_twice_afterwards(
    during: float, after: float, expected: list[bool]
) -> None:
    phases = Phases(
        before=a_window(p99_ms=10.0), during=a_window(p99_ms=during), after=a_window(p99_ms=after), swap_s=3.0
    )
    assert held(swap.report("clip", phases)) == expected


def test_a_swap_that_fails_somebody_is_none() -> None:
    failing = Phases(before=a_window(), during=a_window(failed=1), after=a_window(), swap_s=3.0)
    assert held(swap.report("clip", failing)) == [True, True, False, True]


def test_a_swap_that_did_not_end_in_its_window_proves_nothing() -> None:
    late = Phases(before=a_window(), during=a_window(), after=a_window(), swap_s=55.0)
    assert held(swap.report("clip", late)) == [True, True, True, False]


def test_every_scenario_is_a_command_of_its_own() -> None:
    for name in ("bad", "zoo", "soak", "swap"):
        answer = CliRunner().invoke(main, [name, "--help"])
        assert answer.exit_code == 0
        assert "--quick" in answer.output


def test_a_party_that_is_none_is_a_wrong_usage() -> None:
    answer = CliRunner().invoke(main, ["--parties", "ours,triton"])
    assert answer.exit_code == 2
    assert "'triton' is not a party" in answer.output
