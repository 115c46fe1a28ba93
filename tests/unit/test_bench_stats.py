"""The arithmetic of the benchmark harness."""

from __future__ import annotations

import pytest

from load.bench.stats import is_stable, paired_ratios, percentile, spread, window_seconds


def test_a_percentile_lies_between_its_neighbours() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert percentile(values, 0.0) == 1.0
    assert percentile(values, 0.5) == 2.5
    assert percentile(values, 1.0) == 4.0
    assert percentile(list(range(101)), 0.99) == pytest.approx(99.0)


def test_one_value_is_all_its_percentiles() -> None:
    assert {percentile([7.0], share) for share in (0.0, 0.5, 0.95, 1.0)} == {7.0}


def test_no_value_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 0.5)


def test_a_spread_holds_ends_quartiles_and_median() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.low, found.lower_quartile, found.median, found.upper_quartile, found.high) == (1, 2, 3, 4, 5)
    assert found.count == 5
    assert found.middle_half == pytest.approx(2 / 3)


def test_ratios_are_taken_pair_by_pair_so_that_a_slow_machine_cancels() -> None:
    assert paired_ratios([10.0, 5.0], [8.0, 4.0]) == [1.25, 1.25]


def test_pairs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratios([1.0, 2.0], [1.0])


def test_a_neighbour_that_measured_nothing_gives_no_ratio() -> None:
    with pytest.raises(ValueError, match="measured something"):
        paired_ratios([1.0], [0.0])


def test_five_ratios_that_agree_are_stable() -> None:
    assert is_stable(spread([1.00, 1.02, 1.04, 1.05, 1.30]))


def test_four_ratios_are_too_few_however_well_they_agree() -> None:
    assert not is_stable(spread([1.0] * 4))


def test_ratios_that_scatter_are_not_stable() -> None:
    assert not is_stable(spread([0.8, 0.9, 1.0, 1.1, 1.2]))


@pytest.mark.parametrize(("batch_s", "expected_s"), [(0.001, 25.0), (1.0, 25.0), (2.0, 48.0)])
def test_a_window_holds_its_batches_and_is_never_short(batch_s: float, expected_s: float) -> None:
    assert window_seconds(batch_s) == expected_s
