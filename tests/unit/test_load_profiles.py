"""Profiles of load, and what is reckoned of a run: stages, percentiles, codes, what processes used."""

from __future__ import annotations

import math

import pytest

from load.profiles.recording import ALL, Request, Usage, percentile, rows, usage
from load.profiles.report import markdown
from load.profiles.stages import PROFILES, Profile, Stage

TWO = Profile("two levels", (Stage(2, 20.0, 5.0), Stage(8, 10.0, 5.0)))


@pytest.mark.parametrize(("at_s", "stage"), [(0.0, 0), (19.9, 0), (20.0, 1), (29.9, 1), (30.0, None)])
def test_a_moment_belongs_to_a_stage_until_all_is_over(at_s: float, stage: int | None) -> None:
    assert TWO.at(at_s) == stage


def test_there_are_five_profiles_and_smoke_takes_less_than_two_minutes() -> None:
    assert list(PROFILES) == ["smoke", "load", "stress", "spike", "soak"]
    assert PROFILES["smoke"].seconds < 120
    assert all(stage.seconds > stage.settle_s for profile in PROFILES.values() for stage in profile.stages)


def test_a_profile_in_a_tenth_of_its_time_has_the_same_users() -> None:
    tenth = TWO.scaled(0.1)
    assert [stage.users for stage in tenth.stages] == [2, 8]
    assert tenth.seconds == pytest.approx(3.0)
    assert tenth.stages[0].settle_s == pytest.approx(0.5)


def test_percentiles_are_of_what_was_answered_after_the_stage_settled() -> None:
    slow_start = [Request(1.0, "picture", 9_999.0)]
    answered = [Request(6.0 + n / 10, "picture", float(n)) for n in range(1, 101)]
    failed = [Request(10.0, "picture", 5_000.0, "overloaded"), Request(11.0, "text", 1.0, "overloaded")]
    found = rows(TWO, [*slow_start, *answered, *failed])
    picture, text, everything = found
    assert (picture.name, picture.count, picture.failed) == ("picture", 101, 1)
    assert (picture.p50_ms, picture.p95_ms, picture.p99_ms) == (50.0, 95.0, 99.0)
    assert picture.per_s == pytest.approx(100 / 15)
    assert math.isnan(text.p50_ms), "nothing was answered"
    assert (everything.name, everything.codes) == (ALL, {"overloaded": 2})


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))
    assert percentile([3.0], 0.99) == 3.0


def test_processes_of_a_role_are_counted_together() -> None:
    samples = [
        Usage(6.0, "api", 1, 0.5, 100), Usage(6.0, "api", 2, 0.25, 50), Usage(7.0, "api", 1, 0.25, 300),
        Usage(1.0, "api", 1, 9.0, 9_000), Usage(26.0, "engine", 3, 1.0, 10),
    ]  # fmt: skip
    assert usage(TWO, samples) == {(0, "api"): (pytest.approx(0.5), 300), (1, "engine"): (1.0, 10)}


def test_the_report_has_a_line_for_each_kind_of_request_and_names_its_plots() -> None:
    requests = [Request(6.0, "picture", 20.0), Request(26.0, "picture", 40.0, "overloaded")]
    text = markdown("load-http", TWO, {"commit": "abc"}, requests, [Usage(6.0, "api", 1, 0.5, 2**21)])
    assert "| 2 | picture | 0.1 | 20 | 20 | 20 | 0 |" in text
    assert "overloaded: 1" in text
    assert "- commit: abc" in text
    assert "load-http-requests.svg" in text
    assert "| 2 | 0.50, 2 |" in text


def test_where_no_process_was_watched_nothing_is_said_of_them() -> None:
    assert "usage" not in markdown("load-http", TWO, {}, [Request(6.0, "picture", 20.0)], [])
