"""What `modelmora segment` was asked to look for: points and boxes of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TypeAlias

import click

from modelmora.client import Box, Everything, Point, Prompt

Numbers: TypeAlias = tuple[float, ...]


def numbers(count: int) -> Callable[[click.Context, click.Parameter, Sequence[str]], list[Numbers]]:
    """Reads the values of an option, each so many numbers divided by commas; raises BadParameter."""

    def read(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[Numbers]:
        return [_numbers(value, count) for value in values]

    return read


def _numbers(value: str, count: int) -> Numbers:
    try:
        found = tuple(map(float, value.split(",")))
    except ValueError:
        found = ()
    if len(found) != count or not all(map(isfinite, found)):
        raise click.BadParameter(f"{value!r} is not {count} numbers divided by commas")
    return found


def prompts_of(
    *,
    points: Sequence[Numbers],
    background: Sequence[Numbers],
    boxes: Sequence[Numbers],
    everything: bool,
    points_per_side: int | None,
) -> list[Prompt] | Everything:
    """Raises UsageError where there is nothing to look for, or not only one way to read it."""
    if everything:
        if points or background or boxes:
            raise click.UsageError("--everything is instead of points and boxes")
        return Everything() if points_per_side is None else Everything(points_per_side=points_per_side)
    if points_per_side is not None:
        raise click.UsageError("--points-per-side is for --everything")
    if not (points or boxes):
        raise click.UsageError("give a --point, a --box or --everything")
    if len(boxes) > 1 and (points or background):
        raise click.UsageError("points belong to one box: give them one --box, or run the command for each")
    marked = tuple(Point(x=x, y=y) for x, y in points)
    marked += tuple(Point(x=x, y=y, background=True) for x, y in background)
    if not boxes:
        return [Prompt(points=marked)]
    return [Prompt(points=marked, box=_box(box)) for box in boxes]


def _box(sides: Numbers) -> Box:
    left, top, right, bottom = sides
    return Box(left=left, top=top, right=right, bottom=bottom)
