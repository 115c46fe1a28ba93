"""The main command: our service, the reference loop and the plain BentoML service, window after window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from load.bench import agreement, machine, pictures, results, stats
from load.bench.callers import Load
from load.bench.driver import ReferenceLoop, measure
from load.bench.plan import PAIRED_POINTS, Budget, Party, Point, decide, order
from load.bench.results import Run, Window
from load.bench.servers import Server, start_bentoml, start_ours
from load.bench.subjects import Subject

BATCHES = (8, 16, 32)
QUICK_S = 4.0
CONDITIONS: dict[str, object] = {
    "omp_wait_policy": "passive",
    "precision": "fp32",
    "pictures": "640x480 JPEG, quality 85, one a request",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for; `threads` 0 leaves every party what it takes by itself."""

    points: Sequence[Point]
    pairs: int = stats.MIN_PAIRS
    quick: bool = False
    threads: int = 0
    bentoml_passive: bool = True

    def conditions(self) -> dict[str, object]:
        """What was asked for, for the record."""
        threads = self.threads or "what each takes by itself"
        return CONDITIONS | {"quick": self.quick, "threads": threads, "bentoml_passive": self.bentoml_passive}

    def budget(self, batch_s: float) -> Budget:
        """Quick: windows too short for a number, long enough to see that everything works."""
        if self.quick:
            return Budget(window_s=QUICK_S, lead_s=1.0, pairs=1, point_s=0.0, soak_s=QUICK_S)
        return Budget(window_s=stats.window_seconds(batch_s), pairs=self.pairs)


@dataclass(slots=True, kw_only=True)
class Bench:
    """What runs during the comparison, and what it has measured so far."""

    run: Run
    folder: Path
    budget: Budget
    ours: Server
    images: Path | None = None
    batch: int = 0
    bentoml: Server | None = None
    reference: ReferenceLoop | None = None
    keep: Callable[[Run], None] = field(default=lambda _: None)
    say: Callable[[str], None] = field(default=lambda _: None)

    def add_neighbours(self, subject: Subject, weights: Path, options: Options, stack: ExitStack) -> None:
        """Starts the reference loop and the plain service, and sets the windows by the loop's best batch."""
        self.say("starting the reference loop and the plain BentoML service")
        self.images = self.folder / "pictures"
        pictures.draw(self.images)
        self.reference = ReferenceLoop(weights, self.images, logs=self.folder, threads=options.threads)
        stack.enter_context(self.reference.process)
        self.bentoml = start_bentoml(subject, self.folder, threads=options.threads, passive=options.bentoml_passive)
        stack.enter_context(self.bentoml.process)
        described = self.reference.describe()
        alike = agreement.check(self.reference, self.ours, self.bentoml, model=subject.name, images=self.images)
        self.batch, batch_s, speeds = self.reference.best_batch(BATCHES, seconds=1.0 if options.quick else 8.0)
        self.budget = options.budget(batch_s)
        self.run.conditions.update({"reference": described, "cosine_to_reference": alike})
        self.run.conditions.update({"reference_batch": self.batch, "reference_per_s": speeds})

    def measure_points(self, points: Sequence[Point]) -> None:
        """Paired points until they are decided, the others once."""
        for point in points:
            if self.reference is not None and point in PAIRED_POINTS:
                self._paired(point)
            else:
                self._note(self._served(self.ours, point, self.budget.unpaired_s(point), None))

    def _paired(self, point: Point) -> None:
        began, verdict, number = time.monotonic(), None, 0
        while verdict is None:
            for party in order(number):
                self._note(self._window(party, point, number))
            number += 1
            so_far = results.compare(self.run.windows, point, "unstable")
            verdict = decide(number, _agree(so_far), elapsed_s=time.monotonic() - began, budget=self.budget)
        self.run.comparisons.append(results.compare(self.run.windows, point, verdict))
        self.keep(self.run)

    def _window(self, party: Party, point: Point, pair: int) -> Window:
        match party:
            case "reference" if self.reference is not None:
                return self.reference.measure(point, batch=self.batch, window_s=self.budget.window_s, pair=pair)
            case "bentoml" if self.bentoml is not None:
                # BentoML speaks HTTP only: beside our gRPC it is measured over HTTP.
                window = self._served(self.bentoml, Point("http", point.callers), self.budget.window_s, pair)
                return replace(window, point=point)
            case _:
                return self._served(self.ours, point, self.budget.window_s, pair)

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
        )
        return measure(server, load, logs=self.folder, pair=pair)

    def _note(self, window: Window) -> None:
        self.run.windows.append(window)
        self.say(
            f"{window.point!s:8} {window.party:9} {window.per_s:8.2f}/s  {window.cpu_ms:8.2f} CPU ms/item  "
            f"failed {window.failed}  foreign {window.foreign_cores:.2f} cores"
        )
        self.keep(self.run)


def compare(
    subject: Subject, options: Options, folder: Path, *, keep: Callable[[Run], None], say: Callable[[str], None]
) -> Run:
    """Starts everything, checks that all parties give the same embeddings, measures; `keep` after each window."""
    with ExitStack() as stack:
        say("starting our service")
        ours = start_ours(subject, folder, threads=options.threads)
        stack.enter_context(ours.process)
        run = Run(model=subject.name, machine=machine.facts(), conditions=options.conditions())
        bench = Bench(run=run, folder=folder, budget=options.budget(0.0), ours=ours, keep=keep, say=say)
        if subject.folder is not None:
            bench.add_neighbours(subject, subject.folder, options, stack)
        run.conditions.update({"window_s": bench.budget.window_s, "lead_s": bench.budget.lead_s})
        bench.measure_points(options.points)
        return run


def _agree(comparison: results.Comparison) -> bool:
    """Whether the two ratios that are promised are stable; fewer than five pairs never are."""
    promised = (comparison.cpu_to_reference, comparison.speed_to_bentoml)
    return all(ratios is not None and stats.is_stable(ratios) for ratios in promised)
