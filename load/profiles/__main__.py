"""`python -m load.profiles PROFILE`: load on a deployment, and a report; takes what `make load-tools` brings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from load.bench import machine, pictures
from load.profiles.stages import PROFILES

KINDS = ("http", "grpc", "mixed", "gallery", "thrash")


@click.command()
@click.argument("profile", type=click.Choice(tuple(PROFILES)))
@click.option("--kind", type=click.Choice(KINDS), default="mixed", show_default=True, help="Who the users are.")
@click.option("--url", default="http://127.0.0.1:3000", show_default=True)
@click.option("--grpc", default="127.0.0.1:50051", show_default=True)
@click.option("--pid", type=int, help="The server's process, where it is on this machine: its family is watched.")
@click.option("--model", "models", multiple=True, help="For --kind thrash: each of them in turn.")
@click.option("--scale", type=click.FloatRange(0.01, 10), default=1.0, show_default=True, help="Of all times.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("load-report"), show_default=True)
def main(
    *, profile: str, kind: str, url: str, grpc: str, pid: int | None, models: tuple[str, ...], scale: float, out: Path
) -> None:
    """Bounded in time and users. Writes NAME.md with plots, locust's own NAME.html, and NAME.json with every row."""
    from load.profiles import recording, report  # noqa: PLC0415 - after the help
    from load.profiles.run import Target, run  # noqa: PLC0415 - locust changes sockets as it is imported

    if kind == "thrash" and len(models) < 2:
        raise click.UsageError("--kind thrash takes more models than fit: --model A --model B ...")
    chosen, name = PROFILES[profile].scaled(scale), f"{profile}-{kind}"
    with TemporaryDirectory() as folder:
        pictures.draw(Path(folder))
        target = Target(url=url, grpc=grpc, pid=pid)
        met = run(chosen, kind, target, pictures=Path(folder), models=models)
    conditions = {"command": f"python -m load.profiles {profile} --kind {kind}", "seconds": round(chosen.seconds)}
    facts = machine.facts()
    conditions |= {key: facts[key] for key in ("at", "commit", "processor", "cores", "memory_gib")}
    out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(name, chosen, conditions, met.requests, met.usage)
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.html").write_text(met.html)
    rows = [asdict(row) for row in recording.rows(chosen, met.requests)]
    (out / f"{name}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1))
    report.plot(name, chosen, met.requests, met.usage, out)
    click.echo(text)


if __name__ == "__main__":
    main()
