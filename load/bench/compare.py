"""The main command: our service, the reference loop and the rivals, window after window."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from load.bench import agreement, control, machine, pictures, promises, results, stats, subjects
from load.bench.callers import Load
from load.bench.driver import ReferenceLoop, measure
from load.bench.plan import PAIRED_POINTS, POINT_S, USUAL, Budget, Party, Point, decide, order
from load.bench.results import Run, Window
from load.bench.rivals.starting import How, start
from load.bench.servers import Server, start_ours
from load.bench.subjects import Subject

BATCHES = (8, 16, 32)
TOP_K, LABELS = 5, 1_000
QUICK_S = 4.0
CONDITIONS: dict[str, object] = {
    "omp_wait_policy": "passive",
    "pictures": "640x480 JPEG, quality 85, one a request",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for; `threads` 0 leaves every party what it takes by itself.

    Points that are in `paired` are measured beside the other `parties`, the rest once.
    """

    points: Sequence[Point]
    parties: Sequence[Party] = USUAL
    paired: frozenset[Point] = PAIRED_POINTS
    pairs: int = stats.MIN_PAIRS
    point_s: float = POINT_S
    quick: bool = False
    threads: int = 0
    tuned: bool = True

    def conditions(self) -> dict[str, object]:
        """What was asked for, for the record."""
        threads = self.threads or "what each takes by itself"
        own = {"quick": self.quick, "threads": threads, "tuned": self.tuned}
        return CONDITIONS | own | {"parties": list(self.parties)}

    def budget(self, batch_s: float) -> Budget:
        """Quick: windows too short for a number, long enough to see that everything works."""
        if self.quick:
            return Budget(window_s=QUICK_S, lead_s=1.0, pairs=1, point_s=0.0, soak_s=QUICK_S, parties=len(self.parties))
        window_s = stats.window_seconds(batch_s)
        return Budget(window_s=window_s, pairs=self.pairs, point_s=self.point_s, parties=len(self.parties))


@dataclass(slots=True, kw_only=True)
class Bench:
    """What runs during the comparison, and what it has measured so far."""

    run: Run
    folder: Path
    budget: Budget
    options: Options
    servers: dict[Party, Server]
    images: Path | None = None
    batch: int = 0
    reference: ReferenceLoop | None = None
    keep: Callable[[Run], None] = field(default=lambda _: None)
    say: Callable[[str], None] = field(default=lambda _: None)

    def add_neighbours(self, subject: Subject, weights: Path, stack: ExitStack) -> None:
        """Starts the reference loop and the rivals, and sets the windows by the loop's best batch."""
        self.say(f"starting {', '.join(party for party in self.options.parties if party != 'ours')}")
        self.images = self.folder / "pictures"
        pictures.draw(self.images)
        self.reference = ReferenceLoop(weights, self.images, logs=self.folder, threads=self.options.threads)
        stack.enter_context(self.reference.process)
        how = How(threads=self.options.threads, tuned=self.options.tuned)
        for party in self.options.parties:
            if party not in ("ours", "reference"):
                self.servers[party] = start(party, subject, self.folder, how)
                stack.enter_context(self.servers[party].process)
        self._check(subject, self.reference)
        self._rest()
        self.batch, batch_s, speeds = self.reference.best_batch(BATCHES, seconds=1.0 if self.options.quick else 8.0)
        self.budget = self.options.budget(batch_s)
        self.run.conditions.update({"reference_batch": self.batch, "reference_per_s": speeds})

    def measure_points(self) -> None:
        """Paired points until they are decided, the others once."""
        for point in self.options.points:
            if self.reference is not None and point in self.options.paired:
                self._paired(point)
            else:
                self._note(self._served(self.servers["ours"], point, self.budget.unpaired_s(point), None))

    def _check(self, subject: Subject, reference: ReferenceLoop) -> None:
        """In another precision than the reference's all pictures count, not just some."""
        count = agreement.COUNT if self.run.conditions["precision"] == "fp32" else pictures.COUNT
        described, images = reference.describe(), self.folder / "pictures"
        top_k = LABELS if subject.task == "classify" else 0
        alike = agreement.check(
            reference, self.servers.values(), model=subject.name, images=images, top_k=top_k, count=count
        )
        self.run.conditions.update({"reference": described, "cosine_to_reference": alike})

    def _paired(self, point: Point) -> None:
        began, verdict, number = time.monotonic(), None, 0
        while verdict is None:
            for party in order(number, self.options.parties):
                self._note(self._window(party, point, number))
            number += 1
            so_far = results.compare(self.run.windows, point, "unstable")
            verdict = decide(number, _agree(so_far), elapsed_s=time.monotonic() - began, budget=self.budget)
        self.run.comparisons.append(results.compare(self.run.windows, point, verdict))
        self.keep(self.run)

    def _window(self, party: Party, point: Point, pair: int) -> Window:
        if party == "reference" and self.reference is not None:
            batch = self.batch if point.callers > 1 else 1  # beside a lone caller the loop takes one at a time too
            return self.reference.measure(point, batch=batch, window_s=self.budget.window_s, pair=pair)
        # The others speak HTTP only: beside our gRPC they are measured over HTTP.
        asked = point if party == "ours" else Point("http", point.callers)
        self.servers[party].process.resume()
        window = self._served(self.servers[party], asked, self.budget.window_s, pair)
        self._rest()
        return replace(window, point=point)

    def _rest(self) -> None:
        """LitServe's workers ask their queue a thousand times a second: outside their windows they are stopped.

        The others take 0.006 cores and less while they are idle.
        """
        for party in promises.LITSERVE:
            if party in self.servers:
                self.servers[party].process.pause()

    def _served(self, server: Server, point: Point, window_s: float, pair: int | None) -> Window:
        load = Load(
            party=server.party,
            face=point.face,
            port=server.port(point.face),
            model=self.run.model,
            callers=point.callers,
            lead_s=self.budget.lead_s,
            window_s=window_s,
            pictures=str(self.images) if self.images else None,
            top_k=TOP_K if subjects.classifies(self.run.model) else 0,
        )
        return measure(server, load, logs=self.folder, pair=pair)

    def _note(self, window: Window) -> None:
        self.run.windows.append(window)
        self.say(
            f"{window.point!s:8} {window.party:14} {window.per_s:8.2f}/s  {window.cpu_ms:8.2f} CPU ms/item  "
            f"failed {window.failed}  foreign {window.foreign_cores:.2f} cores"
        )
        self.keep(self.run)


def compare(
    subject: Subject, options: Options, folder: Path, *, keep: Callable[[Run], None], say: Callable[[str], None]
) -> Run:
    """Starts everything, checks that all parties give the same embeddings, measures; `keep` after each window."""
    with ExitStack() as stack:
        say("starting our service")
        ours, form = _ours(subject, options, folder, say)
        stack.enter_context(ours.process)
        run = Run(model=subject.name, machine=machine.facts(), conditions=options.conditions())
        run.conditions.update(form)
        bench = Bench(
            run=run, folder=folder, budget=options.budget(0.0), options=options, servers={"ours": ours},
            keep=keep, say=say,
        )  # fmt: skip
        if subject.folder is not None:
            bench.add_neighbours(subject, subject.folder, stack)
        run.conditions.update({"window_s": bench.budget.window_s, "lead_s": bench.budget.lead_s})
        bench.measure_points()
        return run


def _ours(
    subject: Subject, options: Options, folder: Path, say: Callable[[str], None]
) -> tuple[Server, Mapping[str, str]]:
    """Our service and who computes there in what: what `auto` means is found out first, for the next start."""
    server = start_ours(subject, folder, threads=options.threads)
    if "auto" not in (subject.precision, subject.engine):
        return server, {"engine": subject.engine, "precision": subject.precision}
    say("finding out the fastest engine and precision that pass the gate")
    with server.process:
        report = control.steps(server.http_port, f"/api/v1/models/{subject.name}/verify")[-1]
    return start_ours(subject, folder, threads=options.threads), report["auto"]


def _agree(comparison: results.Comparison) -> bool:
    """Whether the ratios that matter at this point are stable; fewer than five pairs never are."""
    ratios = promises.decisive(comparison)
    return bool(ratios) and all(stats.is_stable(ratio) for ratio in ratios)
