"""What a person sees: tables on the standard output, progress on the standard error when that is a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Protocol

import click


class Bar(Protocol):
    """Progress of one long work."""

    def to(self, done: int, total: int | None = None, label: str | None = None) -> None:
        """`done` of `total` units; a total or label of None stays as it was."""
        ...


class _Silent:
    def to(self, done: int, total: int | None = None, label: str | None = None) -> None:
        return


def print_json(value: Any) -> None:
    """One line; dataclasses as objects, moments as RFC 3339 has them. What is no Unicode (a file's name) is escaped."""
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    click.echo(text.encode(errors="backslashreplace").decode())


def _plain(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else asdict(value)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns without borders, as wide as they need to be."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: int) -> str:
    """Bytes as a person reads them, in powers of 1024; 0 is a dash."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if count else "-"
        value /= 1024
    return f"{value:.1f} GiB"


@contextlib.contextmanager
def progress(label: str, *, total: int | None, quiet: bool, in_bytes: bool = False) -> Iterator[Bar]:
    """A bar on the standard error; none when `quiet` or nobody looks at it."""
    if quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    with _rich_bar(label, total, in_bytes) as bar:
        yield bar


@contextlib.contextmanager
def waiting(label: str, *, quiet: bool) -> Iterator[None]:
    """A spinner on the standard error for work that does not tell how far it is."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - rich takes longer to import than most commands take

    with Console(stderr=True).status(label):
        yield


@contextlib.contextmanager
def _rich_bar(label: str, total: int | None, in_bytes: bool) -> Iterator[Bar]:
    from rich.console import Console  # noqa: PLC0415 - rich takes longer to import than most commands take
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn(binary_units=True) if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=total)

        class _Shown:
            def to(self, done: int, total: int | None = None, label: str | None = None) -> None:
                shown.update(task, completed=done, total=total, description=label)

        yield _Shown()
