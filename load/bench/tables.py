"""A run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from load.bench import promises
from load.bench.plan import PARTIES
from load.bench.results import DISTURBED_CORES, Comparison, Run, Window, of
from load.bench.stats import Spread, percentile

_WINDOW_HEAD = (
    "point",
    "party",
    "windows",
    "items/s",
    "CPU ms/item",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "failed",
    "by role",
)
_RATIO_HEAD = ("point", "ours to", "pairs", "CPU", "speed", "p50", "p99", "disturbed", "verdict")


def markdown(run: Run) -> str:
    """Both tables and what they say about the promises."""
    parts = [
        f"### {run.model}",
        _conditions(run),
        table(_WINDOW_HEAD, _window_rows(run.windows)),
        "`unpaired` points are one window without a neighbour beside it; the others are medians of their windows. "
        "CPU is that of all processes of the party.",
    ]
    if run.comparisons:
        parts += [
            "Paired ratios, ours to the other, median [smallest .. largest]; stable when the middle half of "
            "the ratios lies within 10 % of the median; disturbed: windows in which the rest of the machine used more "
            f"than {DISTURBED_CORES} cores:",
            table(_RATIO_HEAD, [row for comparison in run.comparisons for row in _ratio_rows(comparison)]),
        ]
    return "\n\n".join([*parts, *promised(run)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(spread: Spread | None) -> str:
    """`1.07 [1.04 .. 1.12]`, or a dash."""
    return "-" if spread is None else f"{spread.median:.2f} [{spread.low:.2f} .. {spread.high:.2f}]"


def promised(run: Run) -> list[str]:
    """One line for each promised ratio that was measured."""
    failed = sum(window.failed for window in run.windows if window.party == "ours")
    return [*map(str, promises.judge(run)), f"Failed requests of ours over all windows: {failed}."]


def _conditions(run: Run) -> str:
    facts, said = run.machine, run.conditions
    own = "" if said.get("tuned", True) else " (not for the rivals: as they come)"
    text = (
        f"{facts.get('processor')}, {facts.get('cores')} cores, {facts.get('at')}, commit {facts.get('commit')}; "
        f"ours in {said.get('precision', 'fp32')} by {said.get('engine', 'torch')}, the others in fp32; "
        f"OMP_WAIT_POLICY=PASSIVE{own}; windows of {said.get('window_s', 0):.0f} s"
    )
    if "reference_batch" in said:
        text += f"; the reference loop's best batch is {said['reference_batch']}"
    return text + ("; **quick: too short for a number**" if said.get("quick") else "") + "."


def _window_rows(windows: Sequence[Window]) -> Iterable[list[str]]:
    """One row a point and party, in the order of measurement."""
    for point in dict.fromkeys(window.point for window in windows):
        for party in PARTIES:
            if found := of(windows, party, point):
                yield _window_row(str(point), found)


def _window_row(point: str, windows: Sequence[Window]) -> list[str]:
    paired = windows[0].pair is not None
    over_http = windows[0].party not in ("ours", "reference") and point.startswith("grpc")
    name = windows[0].party + (" (HTTP)" if over_http else "") + ("" if paired else ", unpaired")
    return [
        point,
        name,
        str(len(windows)),
        f"{_median(w.per_s for w in windows):.1f}",
        f"{_median(w.cpu_ms for w in windows):.2f}",
        *(_milliseconds(getattr(w, field) for w in windows) for field in ("p50_ms", "p95_ms", "p99_ms")),
        "-" if windows[0].party == "reference" else str(sum(w.failed for w in windows)),
        _roles(windows),
    ]


def _ratio_rows(comparison: Comparison) -> Iterable[list[str]]:
    """One row a party that ours is compared with."""
    for other in PARTIES:
        if speed := comparison.of("speed", other):
            yield [
                str(comparison.point),
                other,
                str(speed.count),
                ratio(comparison.of("cpu", other)),
                ratio(speed),
                ratio(comparison.of("p50", other)),
                ratio(comparison.of("p99", other)),
                str(comparison.disturbed),
                comparison.verdict,
            ]


def _roles(windows: Sequence[Window]) -> str:
    """CPU milliseconds per item by role, the largest first."""
    items = sum(w.items for w in windows) or 1
    total: dict[str, float] = {}
    for window in windows:
        for role, seconds in window.cpu_s.items():
            total[role] = total.get(role, 0.0) + seconds
    shares = sorted(total.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{role} {1000 * seconds / items:.2f}" for role, seconds in shares)


def _median(values: Iterable[float]) -> float:
    return percentile(list(values), 0.5)


def _milliseconds(values: Iterable[float | None]) -> str:
    """A dash where the party knows no requests."""
    known = [value for value in values if value is not None]
    return f"{_median(known):.1f}" if known else "-"
