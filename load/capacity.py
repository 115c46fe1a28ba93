"""`python -m load.capacity`: what a rate of requests needs, from what one request was measured to cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from load.bench.costs import MEANING, WAYS, Cost, Way, by_way
from load.bench.processes import ROOT
from load.bench.tables import table

RECORDED = ROOT / "docs" / "reports" / "costs.json"
BUSY = 0.7
"""The share of a core that is planned with: bursts, a collector of garbage and the kernel take the rest."""

Mix = Mapping[Way, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cores and nodes for a rate; `api_ms` and `runner_ms` are CPU milliseconds a request."""

    rate: float
    api_ms: float
    runner_ms: float
    cores: int
    busy: float = BUSY
    spare: int = 1

    @property
    def core_carries(self) -> float:
        """Requests a second of one core that is as busy as planned."""
        return self.busy * 1_000 / (self.api_ms + self.runner_ms)

    @property
    def node_carries(self) -> float:
        return self.cores * self.core_carries

    @property
    def api_workers(self) -> int:
        """Over all nodes; a worker is one core's."""
        return math.ceil(self.rate * self.api_ms / 1_000 / self.busy)

    @property
    def runner_cores(self) -> int:
        """Over all nodes."""
        return math.ceil(self.rate * self.runner_ms / 1_000 / self.busy)

    @property
    def nodes(self) -> int:
        """As many as carry the rate, and those that may be away."""
        return math.ceil(self.rate / self.node_carries) + self.spare


def plan(costs: Mapping[Way, Cost], mix: Mix, *, rate: float, cores: int, busy: float = BUSY, spare: int = 1) -> Plan:
    """For requests of several kinds, by their weights, of which one at least is positive."""
    whole = sum(mix.values())
    api_ms = sum(weight * costs[way].api.median for way, weight in mix.items()) / whole
    runner_ms = sum(weight * costs[way].runner.median for way, weight in mix.items()) / whole
    return Plan(rate=rate, api_ms=api_ms, runner_ms=runner_ms, cores=cores, busy=busy, spare=spare)


def parse(text: str) -> Mix:
    """`picture=3,search-words=1`; raises ValueError on anything else."""
    mix: dict[Way, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        way = next((way for way in WAYS if way == name), None)
        if way is None:
            raise ValueError(f"{name!r} is no kind of request; there are {', '.join(WAYS)}")
        try:
            mix[way] = float(weight)
        except ValueError:
            raise ValueError(f"{part.strip()!r} has no weight; write such as {name}=3") from None
        if not 0 <= mix[way] < math.inf:
            raise ValueError(f"{part.strip()!r}: a weight is 0 or more")
    if not any(mix.values()):
        raise ValueError(f"{text!r}: a mix takes one weight above 0")
    return mix


def markdown(costs: Mapping[Way, Cost], mixes: Sequence[Mix], *, rate: float, cores: int, busy: float) -> str:
    """A row for each kind of request and for each mix."""
    kinds: list[tuple[str, Mix]] = [(MEANING[way], {way: 1.0}) for way in WAYS]
    kinds += [(_said(mix), mix) for mix in mixes]
    rows = []
    for what, mix in kinds:
        of = plan(costs, mix, rate=rate, cores=cores, busy=busy)
        rows.append(
            [
                what,
                f"{of.api_ms:.2f}, {of.runner_ms:.2f}",
                _rounded(of.core_carries),
                _rounded(of.node_carries),
                f"{of.api_workers:,}",
                f"{of.runner_cores:,}",
                f"{of.nodes:,}",
            ]
        )
    head = (
        f"{rate:,.0f} requests a second", "CPU ms: API, runner", "one core carries /s", f"a node of {cores} cores /s",
        "API workers", "runner cores", "nodes, one spare",
    )  # fmt: skip
    return table(head, rows)


def _said(mix: Mix) -> str:
    whole = sum(mix.values())
    return ", ".join(f"{weight / whole:.0%} {way}" for way, weight in mix.items())


def _rounded(carried: float) -> str:
    return f"{carried:,.0f}" if carried >= 10 else f"{carried:.1f}"


class _Mixes(click.ParamType[Mix]):
    name = "mix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Mix:
        try:
            return parse(str(value))
        except ValueError as bad:
            self.fail(str(bad), param, ctx)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=RECORDED)
@click.option("--rate", type=click.FloatRange(1), default=10_000, show_default=True, help="Requests a second.")
@click.option("--cores", type=click.IntRange(1, 1024), default=16, show_default=True, help="Of a node.")
@click.option("--busy", type=click.FloatRange(0.05, 1), default=BUSY, show_default=True, help="Of a core, at most.")
@click.option("--mix", "mixes", type=_Mixes(), multiple=True, help="Such as picture-remembered=6,picture=3.")
def main(*, file: Path, rate: float, cores: int, busy: float, mixes: tuple[Mix, ...]) -> None:
    """FILE is what `python -m load.bench costs --json FILE` wrote; without one, the run in docs/reports/."""
    try:
        costs = by_way(json.loads(file.read_text()))
        click.echo(markdown(costs, mixes, rate=rate, cores=cores, busy=busy))
    except ValueError as bad:
        raise click.ClickException(f"{file}: {bad}") from bad


if __name__ == "__main__":
    main()
