"""`python -m load.bench`: the comparison; each other command measures one cost, or one promise under load."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from load.bench import bulk as announcing
from load.bench import cached as remembering
from load.bench import compare as comparing
from load.bench import costs as costing
from load.bench import hop as hopping
from load.bench import machine, plan, profile, subjects, tables, wrk
from load.bench import nearest as finding
from load.bench import observed as seeing
from load.bench import search as searching
from load.bench import start as starting
from load.bench.options import JSON, QUICK, WORK, run_folder, say, write, write_json
from load.bench.plan import ALL_POINTS, PAIRED_POINTS, PAIRED_WHEN_ASKED, POINT_S, Party, Point
from load.bench.scenarios import bad, soak, swap, zoo
from load.bench.stats import MIN_PAIRS
from modelmora.domain.models import Engine

_LITSERVE: dict[str, tuple[Party, ...]] = {
    "both": ("litserve", "litserve-tuned"),
    "as-it-comes": ("litserve",),
    "tuned": ("litserve-tuned",),
}


class Points(click.ParamType[tuple[Point, ...]]):
    """`http:1,http:8,grpc:32`."""

    name = "points"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Point, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(Point.parse(text) for text in str(value).split(","))
        except ValueError as bad:
            self.fail(str(bad), param, ctx)


_MODEL = click.option("--model", type=click.Choice(subjects.NAMES), default="vit-b-32", show_default=True)
_PRECISION = click.option(
    "--precision", type=click.Choice(subjects.PRECISIONS), default="fp32", show_default=True,
    help="Ours only; auto is found out first. The others take fp32.",
)  # fmt: skip
_ENGINE = click.option(
    "--engine", type=click.Choice(subjects.ENGINES), default="torch", show_default=True, help="Ours only."
)


@click.group(invoke_without_command=True, help="Our service, the reference loop and plain BentoML, interleaved.")
@_MODEL
@click.option("--points", type=Points(), default=ALL_POINTS, help="Such as http:1,http:8,grpc:32; default: all.")
@click.option(
    "--parties",
    default=",".join(plan.USUAL),
    show_default=True,
    help="And litserve, mlserver, infinity.",
)
@click.option("--litserve", type=click.Choice(tuple(_LITSERVE)), default="both", show_default=True, help="How it runs.")
@_PRECISION
@_ENGINE
@click.option("--pairs", type=click.IntRange(MIN_PAIRS, 30), default=MIN_PAIRS, show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(1, 60), default=POINT_S / 60, show_default=True,
    help="The longest that a point of three parties may take, in proportion for more.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(0, 256), default=0, help="For every party; 0: what each takes by itself."
)
@click.option(
    "--as-they-come", is_flag=True, help="BentoML, MLServer and infinity with OpenMP's own wait policy, not ours."
)
@QUICK
@JSON
@WORK
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    model: subjects.Name,
    points: tuple[Point, ...],
    parties: str,
    litserve: str,
    precision: subjects.Precision,
    engine: Engine,
    pairs: int,
    minutes: float,
    threads: int,
    as_they_come: bool,
    quick: bool,
    file: Path | None,
    work: Path,
) -> None:
    """The comparison, unless another command is named."""
    if context.invoked_subcommand is not None:
        return
    try:
        chosen = plan.parties(parties, litserve=_LITSERVE[litserve])
    except ValueError as bad_name:
        raise click.BadParameter(str(bad_name), param_hint="--parties") from bad_name
    asked = context.get_parameter_source("points") is ParameterSource.COMMANDLINE
    options = comparing.Options(
        points=points,
        parties=chosen,
        paired=PAIRED_POINTS | (PAIRED_WHEN_ASKED if asked else frozenset()),
        pairs=pairs,
        point_s=minutes * 60,
        quick=quick,
        threads=threads,
        tuned=not as_they_come,
    )
    with run_folder(work) as folder:
        subject = replace(subjects.prepare(model, work), precision=precision, engine=engine)
        run = comparing.compare(subject, options, folder, keep=lambda run: write(file, run), say=say)
    click.echo(tables.markdown(run))


@main.command()
@click.option("--model", type=click.Choice(subjects.NAMES), default="shapes-clip", show_default=True)
@click.option("--times", type=click.IntRange(1, 20), default=3, show_default=True)
@JSON
@WORK
def start(model: subjects.Name, times: int, file: Path | None, work: Path) -> None:
    """Start to ready, beside a bare `import open_clip`."""
    with run_folder(work) as folder:
        measured = starting.starts(subjects.prepare(model, work), folder, times=times, say=say)
    write_json(file, {"machine": machine.facts(), "starts": [asdict(one) for one in measured]})
    click.echo(starting.markdown(measured))


@main.command()
@click.option("--callers", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option("--python", "plain", is_flag=True, help="Python callers even where wrk is installed.")
@click.option("--profile", "profiled", is_flag=True, help="And what the API worker's time goes into, by py-spy.")
@QUICK
@JSON
@WORK
def hop(*, callers: int, plain: bool, profiled: bool, quick: bool, file: Path | None, work: Path) -> None:
    """CPU of the API workers per request for a model that computes nothing."""
    if not wrk.installed() and not plain:
        say(wrk.MISSING)
    if profiled and not profile.installed():
        say(profile.MISSING)
    options = hopping.Options(
        callers=callers,
        windows=1 if quick else MIN_PAIRS,
        seconds=2 if quick else 10,
        native=wrk.installed() and not plain,
        profile=profiled and profile.installed(),
    )
    with run_folder(work) as folder:
        run, table = hopping.hop(options, folder, say=say)
    write(file, run)
    click.echo(hopping.markdown(run))
    click.echo(table)


@main.command()
@QUICK
@JSON
@WORK
def observed(*, quick: bool, file: Path | None, work: Path) -> None:
    """What metrics, logs and traces cost a request."""
    options = seeing.Options(blocks=2) if quick else seeing.Options()
    with run_folder(work) as folder:
        seen = seeing.observed(options, folder)
    write_json(file, asdict(seen))
    click.echo(seeing.markdown(seen))


@main.command()
@click.option("--callers", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option(
    "--cache", default="memory://", show_default=True, help="What remembers, as MODELMORA_CACHE_URL takes it."
)
@QUICK
@JSON
@WORK
def cached(*, callers: int, cache: str, quick: bool, file: Path | None, work: Path) -> None:
    """CPU of the API workers for an embedding that is remembered."""
    options = remembering.Options(
        callers=callers, windows=1 if quick else MIN_PAIRS, seconds=2 if quick else 10, cache=cache
    )
    with run_folder(work) as folder:
        run = remembering.cached(options, folder, say=say)
    write(file, run)
    click.echo(remembering.markdown(run))


@main.command()
@_MODEL
@_PRECISION
@_ENGINE
@click.option("--kept", type=click.IntRange(32, 1_000_000), default=1_000, show_default=True, help="Pictures.")
@click.option("--windows", type=click.IntRange(1, 30), default=MIN_PAIRS, show_default=True, help="Of ten seconds.")
@QUICK
@JSON
@WORK
def search(
    *,
    model: subjects.Name,
    precision: subjects.Precision,
    engine: Engine,
    kept: int,
    windows: int,
    quick: bool,
    file: Path | None,
    work: Path,
) -> None:
    """Searches by words and by a picture, at 1 and 8 callers."""
    options = searching.Options(kept=64 if quick else kept, windows=1 if quick else windows, seconds=2 if quick else 10)
    with run_folder(work) as folder:
        subject = replace(subjects.prepare(model, work), precision=precision, engine=engine)
        run = searching.search(subject, options, folder, say=say)
    write(file, run)
    click.echo(searching.markdown(run))


@main.command()
@_MODEL
@_PRECISION
@_ENGINE
@click.option("--callers", type=click.IntRange(1, 1024), default=32, show_default=True)
@QUICK
@JSON
@WORK
def costs(
    *,
    model: subjects.Name,
    precision: subjects.Precision,
    engine: Engine,
    callers: int,
    quick: bool,
    file: Path | None,
    work: Path,
) -> None:
    """CPU of a request by what it asks for; `python -m load.capacity` plans with it."""
    few = {"kept": 64, "windows": 1, "seconds": 2} if quick else {}
    with run_folder(work) as folder:
        subject = replace(subjects.prepare(model, work), precision=precision, engine=engine)
        run = costing.costs(subject, costing.Options(callers=callers, **few), folder, say=say)
    write(file, run)
    click.echo(costing.markdown(asdict(run)))


@main.command()
@QUICK
@JSON
@WORK
def vectors(*, quick: bool, file: Path | None, work: Path) -> None:
    """Questions to a folder of vectors, by how many there are."""
    counts, asked = ((1_000,), 20) if quick else (finding.COUNTS, 200)
    with run_folder(work) as folder:
        found = finding.nearest(folder / "vectors", counts=counts, asked=asked, say=say)
    write_json(file, {"machine": machine.facts(), "found": [asdict(one) for one in found]})
    click.echo(finding.markdown(found))


@main.command()
@_MODEL
@QUICK
@JSON
@WORK
def bulk(*, model: subjects.Name, quick: bool, file: Path | None, work: Path) -> None:
    """Pictures announced over Kafka, beside GenerateBatch; takes what `make components` brings."""
    options = announcing.Options(count=64, pairs=1) if quick else announcing.Options(pairs=MIN_PAIRS)
    with run_folder(work) as folder:
        run = announcing.bulk(subjects.prepare(model, work), options, folder, say=say)
    write(file, run)
    click.echo(announcing.markdown(run))


for scenario in (bad, zoo, soak, swap):
    main.add_command(scenario)


if __name__ == "__main__":
    main()
