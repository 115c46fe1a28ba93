"""`modelmora segment`: what prompts point at in a picture, cut out into picture files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.prompts import numbers, prompts_of
from modelmora.cli.screen import Bar, print_json, print_table, progress
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import Everything, Failed, Mask, ModelMoraError, Ok, Outcome, Prompt, Segmentation

_HEADS = ("PROMPT", "MASK", "SCORE", "AREA", "BOX", "FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to segment, and the folder for the masks (None: they are only told)."""

    picture: Path
    asked: list[Prompt] | Everything
    model: str | None
    multimask: bool | None
    output: Path | None

    def file(self, index: int, place: int) -> Path | None:
        """Of a prompt's mask, or of a mask of everything."""
        if self.output is None:
            return None
        number = f"{index}" if isinstance(self.asked, Everything) else f"{index}-{place}"
        return self.output / f"{self.picture.stem}-{number}.png"


@click.command()
@click.argument("picture", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--point", "points", callback=numbers(2), multiple=True, metavar="X,Y", help="In the mask.")
@click.option("--background", callback=numbers(2), multiple=True, metavar="X,Y", help="A point not in the mask.")
@click.option("--box", "boxes", callback=numbers(4), multiple=True, metavar="L,T,R,B", help="Around the mask.")
@click.option("--everything", is_flag=True, help="Everything there is, instead of points and boxes.")
@click.option("--points-per-side", type=click.IntRange(1), help="The grid of --everything.  [default: 32]")
@click.option("--multimask/--no-multimask", default=None, help="Three masks a prompt, or one.")
@click.option("--model", help="NAME or NAME@VERSION.  [default: the server's]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), help="A folder for the masks, as PNG."
)
@json_option
@talks_to_server
def segment(
    server: Server,
    *,
    picture: Path,
    model: str | None,
    multimask: bool | None,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Cut out of PICTURE what points and boxes show, in pixels of the upright picture.

    All points and a box are one prompt; several boxes, without points, are a prompt each.
    Exit code 1 when a prompt failed.
    """
    job = Job(picture=picture, asked=prompts_of(**given), model=model, multimask=multimask, output=output)
    found = asyncio.run(_segment(server, job, as_json))
    if not as_json:
        _show(job, found)
    failed = {index: outcome.error for index, outcome in found.items() if isinstance(outcome, Failed)}
    _conclude(failed, len(found))


async def _segment(server: Server, job: Job, as_json: bool) -> dict[int, Outcome[Segmentation]]:
    """The outcome of each prompt in order; files and lines of JSON are written as they come."""
    if job.output is not None:
        job.output.mkdir(parents=True, exist_ok=True)
    found = dict[int, Outcome[Segmentation]]()
    total = None if isinstance(job.asked, Everything) else len(job.asked)
    with progress(f"segment {job.picture.name}", total=total, quiet=as_json) as bar:
        async with server.client() as client:
            parts = client.segment(job.picture, job.asked, model=job.model, multimask=job.multimask)
            async with aclosing(parts):
                async for index, outcome in parts:
                    found[index] = outcome
                    _note(job, index, outcome, bar=bar, done=len(found), as_json=as_json)
    return dict(sorted(found.items()))


def _note(job: Job, index: int, outcome: Outcome[Segmentation], *, bar: Bar, done: int, as_json: bool) -> None:
    if isinstance(outcome, Ok):
        for place, mask in enumerate(outcome.value.masks):
            _write(job.file(index, place), mask)
    bar.to(done)
    if as_json:
        print_json(_line(job, index, outcome))


def _write(file: Path | None, mask: Mask) -> None:
    if file is not None:
        file.write_bytes(mask.to_png())


def _line(job: Job, index: int, outcome: Outcome[Segmentation]) -> dict[str, Any]:
    match outcome:
        case Ok(found):
            size = {"height": found.height, "width": found.width}
            masks = [_as_json(mask, job.file(index, place)) for place, mask in enumerate(found.masks)]
            return {"index": index, "model": found.model, "version": found.version, **size, "masks": masks}
        case Failed(error):
            return {"index": index, "error": {"code": error.code, "detail": error.detail}}


def _as_json(mask: Mask, file: Path | None) -> dict[str, Any]:
    told = {"score": mask.score, "area": mask.area, "box": _corners(mask), "rle": mask.rle}
    told |= {} if mask.stability is None else {"stability": mask.stability}
    return told | ({} if file is None else {"file": str(file)})


def _corners(mask: Mask) -> list[float]:
    return [mask.box.left, mask.box.top, mask.box.right, mask.box.bottom]


def _show(job: Job, found: Mapping[int, Outcome[Segmentation]]) -> None:
    rows: list[Sequence[str]] = []
    for index, outcome in found.items():
        masks = outcome.value.masks if isinstance(outcome, Ok) else ()
        for place, mask in enumerate(masks):
            box = ",".join(f"{side:g}" for side in _corners(mask))
            file = job.file(index, place)
            rows.append((str(index), str(place), f"{mask.score:.4f}", str(mask.area), box, str(file or "")))
    if rows:
        print_table(_HEADS, rows)
    elif not any(isinstance(outcome, Failed) for outcome in found.values()):
        click.echo("nothing was found")


def _conclude(failed: Mapping[int, ModelMoraError], count: int) -> None:
    """Raises Failure unless everything succeeded."""
    if count == 1:
        for error in failed.values():
            raise Failure.of(error)
    if failed:
        list_failures((f"prompt {index}", error) for index, error in failed.items())
        raise Failure(f"{len(failed)} of {count} failed")
