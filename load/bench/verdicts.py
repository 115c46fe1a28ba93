"""What a scenario ends with: a table, and of each promise whether it was held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from load.bench.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise beside what was measured; `timed`: a quick run is too short to say."""

    said: str
    held: bool
    timed: bool = False

    def __str__(self) -> str:
        return f"{self.said}: {'held' if self.held else 'NOT held'}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One scenario; `facts` is everything that was measured, JSON-ready."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[Line]
    quick: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every promise is, of those that the run was long enough for."""
        return all(line.held for line in self.lines if not (line.timed and self.quick))

    def markdown(self) -> str:
        """The table and a line for each promise."""
        short = ["**Quick: too short for a number.**"] if self.quick else []
        said = "\n".join(f"- {line}" for line in self.lines)
        return "\n\n".join([f"### {self.title}", *short, table(self.head, self.rows), said]) + "\n"


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.0f}"


def all_held(reports: Iterable[Report]) -> bool:
    return all(report.held for report in reports)
