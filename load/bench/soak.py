"""Constant load for a while: whether memory and p99 of the last quarter are still those of the second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from load.bench import pictures
from load.bench.callers import Load
from load.bench.driver import measure
from load.bench.resident import Sampler
from load.bench.results import Window
from load.bench.servers import start_ours
from load.bench.subjects import Subject
from load.bench.verdicts import Line, Report, mebibytes

MINUTES = 20.0
QUARTERS = 4
MOST = 1.10
CALLERS = 32
Resident: TypeAlias = Mapping[tuple[str, int], float]


@dataclass(frozen=True, slots=True)
class Quarter:
    """A quarter of the time: its window, and the median resident bytes of every process by role and id."""

    window: Window
    resident: Resident


def soak(
    subject: Subject, folder: Path, *, minutes: float, callers: int, quick: bool, say: Callable[[str], None]
) -> Report:
    """Four windows one after the other on the same server."""
    images = folder / "pictures"
    pictures.draw(images)
    window_s = 4.0 if quick else minutes * 60 / QUARTERS
    quarters = []
    ours = start_ours(subject, folder)
    with ours.process:
        load = Load(
            party="ours", face="http", port=ours.http_port, model=subject.name, callers=callers,
            lead_s=1.0 if quick else 3.0, window_s=window_s, pictures=str(images),
        )  # fmt: skip
        for number in range(QUARTERS):
            with Sampler(ours.process.tree(), period_s=1.0) as sampler:
                window = measure(ours, load, logs=folder)
            quarters.append(Quarter(window, sampler.medians()))
            say(f"quarter {number + 1}: {window.per_s:.1f}/s, p99 {window.p99_ms or 0:.0f} ms, {window.failed} failed")
    return report(subject.name, quarters, quick=quick)


def report(model: str, quarters: Sequence[Quarter], *, quick: bool = False) -> Report:
    """The last quarter beside the second: growth is a fault, what shrinks is not."""
    second, last = quarters[1], quarters[-1]
    lines = [_p99(second.window, last.window)]
    lines += [_growth(key, second.resident, last.resident) for key in sorted(second.resident)]
    failed = sum(quarter.window.failed for quarter in quarters)
    lines.append(Line(said=f"{failed} requests failed", held=failed == 0))
    return Report(
        title=f"Soak: {model}, {sum(q.window.wall_s for q in quarters) / 60:.1f} minutes",
        head=("quarter", "items/s", "p50 ms", "p99 ms", "failed", "resident MiB by process"),
        rows=[_row(number, quarter) for number, quarter in enumerate(quarters, 1)],
        lines=lines,
        quick=quick,
        facts={"quarters": [{"window": asdict(q.window), "resident": _named(q.resident)} for q in quarters]},
    )


def _p99(second: Window, last: Window) -> Line:
    before, after = second.p99_ms or 0.0, last.p99_ms or 0.0
    said = f"p99 {before:.0f} -> {after:.0f} ms, at most {MOST}x"
    return Line(said=said, held=after <= MOST * before, timed=True)


def _growth(key: tuple[str, int], second: Resident, last: Resident) -> Line:
    role, pid = key
    if key not in last:
        return Line(said=f"{role} ({pid}) ended", held=False)
    said = f"{role} ({pid}) {mebibytes(second[key])} -> {mebibytes(last[key])} MiB, at most {MOST}x"
    return Line(said=said, held=last[key] <= MOST * second[key], timed=True)


def _row(number: int, quarter: Quarter) -> list[str]:
    window = quarter.window
    resident = ", ".join(f"{role} {mebibytes(size)}" for (role, _), size in sorted(quarter.resident.items()))
    latencies = (f"{value or 0:.0f}" for value in (window.p50_ms, window.p99_ms))
    return [str(number), f"{window.per_s:.1f}", *latencies, str(window.failed), resident]


def _named(resident: Resident) -> dict[str, float]:
    return {f"{role} {pid}": size for (role, pid), size in resident.items()}
