"""Bad items among good ones: what they cost the good ones, and how many forwards finding them takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import ceil, log2
from pathlib import Path

from load.bench import control, pictures
from load.bench.callers import BAD_WORD, Load
from load.bench.driver import measure
from load.bench.results import Window
from load.bench.servers import Server, start_ours
from load.bench.stats import MIN_PAIRS, Spread, paired_ratios, spread, window_seconds
from load.bench.subjects import Subject, prepare
from load.bench.verdicts import Line, Report

EVERY = 10
"""One in ten is bad."""
CALLERS = 32
LEAST_GOOD = 0.90
MAX_BATCH = 16
FORWARDS = "modelmora_bisect_forwards_total"
_BATCH_MS = 20.0


def decode(subject: Subject, folder: Path, *, quick: bool, say: Callable[[str], None]) -> Report:
    """Pictures of which some break off: the good ones' throughput beside that without bad ones, in pairs."""
    images = folder / "pictures"
    pictures.draw(images)
    windows: list[list[Window]] = []
    ours = start_ours(subject, folder / "decode")
    with ours.process:
        for number in range(1 if quick else MIN_PAIRS):
            kinds = (0, EVERY) if number % 2 == 0 else (EVERY, 0)
            found = {every: measure(ours, _load(ours, subject, images, every, quick), logs=folder) for every in kinds}
            windows.append([found[0], found[EVERY]])
            say(f"pair {number + 1}: {found[0].per_s:.1f}/s without, {found[EVERY].per_s:.1f}/s good ones among bad")
    ratio = spread(paired_ratios([bad.per_s for _, bad in windows], [good.per_s for good, _ in windows]))
    return _decode_report(subject, windows, ratio, quick=quick)


def forward(folder: Path, *, quick: bool, say: Callable[[str], None]) -> Report:
    """Texts of which some make a batch raise, to the no-op model; extra forwards are counted by the runner."""
    config = {"fail_on": BAD_WORD, "delay_ms": _BATCH_MS}
    ours = start_ours(replace(prepare("noop", folder), config=config), folder / "forward")
    with ours.process:
        load = Load(
            party="ours", face="http", port=ours.http_port, model="noop", callers=CALLERS, lead_s=1.0,
            window_s=4.0 if quick else 25.0, pictures=None, bad_every=EVERY, bad_status=500,
        )  # fmt: skip
        before = control.metric(ours.http_port, FORWARDS, model="noop")
        window = measure(ours, load, logs=folder)
        extra = control.metric(ours.http_port, FORWARDS, model="noop") - before
    say(f"{window.refused} bad items took {extra:.0f} extra forwards")
    return forward_report(window, extra, quick=quick)


def forward_report(window: Window, extra: float, *, quick: bool = False) -> Report:
    """Finding each bad item may take 2 ceil(log2(batch)) forwards; a run that found none proves nothing."""
    each, most = extra / max(1, window.refused), 2 * ceil(log2(MAX_BATCH))
    row = [str(window.items), str(window.refused), str(window.failed), f"{extra:.0f}", f"{each:.2f}"]
    return Report(
        title=f"Bad in the forward: one in {EVERY}, {CALLERS} callers, batches of at most {MAX_BATCH}",
        head=("good answers", "bad items", "failed", "extra forwards", "each"),
        rows=[row],
        lines=[
            Line(said=f"{each:.2f} extra forwards a bad item, at most {most}", held=0 < each <= most),
            Line(said=f"{window.failed} good items failed", held=window.failed == 0),
        ],
        quick=quick,
        facts={"window": asdict(window), "extra_forwards": extra},
    )


def _decode_report(subject: Subject, windows: Sequence[Sequence[Window]], ratio: Spread, *, quick: bool) -> Report:
    failed = sum(window.failed for pair in windows for window in pair)
    rows = [[f"{good.per_s:.1f}", f"{bad.per_s:.1f}", str(bad.refused), str(bad.failed)] for good, bad in windows]
    said = f"{ratio.median:.3f}x [{ratio.low:.3f} .. {ratio.high:.3f}] the throughput, at least {LEAST_GOOD}x"
    return Report(
        title=f"Bad at decode: one in {EVERY}, {CALLERS} callers over HTTP, {subject.name}",
        head=("items/s without", "good items/s", "refused", "failed"),
        rows=rows,
        lines=[
            Line(said=said, held=ratio.median >= LEAST_GOOD, timed=True),
            Line(said=f"{failed} good items failed", held=failed == 0),
        ],
        quick=quick,
        facts={"windows": [[asdict(window) for window in pair] for pair in windows]},
    )


def _load(ours: Server, subject: Subject, images: Path, every: int, quick: bool) -> Load:
    return Load(
        party="ours", face="http", port=ours.http_port, model=subject.name, callers=CALLERS,
        lead_s=1.0 if quick else 3.0, window_s=4.0 if quick else window_seconds(0.0), pictures=str(images),
        bad_every=every,
    )  # fmt: skip
