"""What a request costs the API worker by itself: a model that computes nothing, through the whole hop to the runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from load.bench import cpu, machine, profile, wrk
from load.bench.callers import HOST, Load
from load.bench.driver import measure
from load.bench.plan import Point
from load.bench.processes import Trouble
from load.bench.results import Run, Window
from load.bench.servers import Server, start_ours
from load.bench.stats import Spread, spread
from load.bench.subjects import prepare
from load.bench.tables import table

MAX_API_US = 300.0
LEAD_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the hop is driven; `native`: by wrk; `profile`: one more window, uncounted, says what the time goes into."""

    callers: int = 32
    windows: int = 5
    seconds: int = 10
    native: bool = True
    profile: bool = False


def hop(options: Options, folder: Path, *, say: Callable[[str], None]) -> tuple[Run, str]:
    """Texts for the no-op model over HTTP, in bodies of at most 100 bytes, after a warm-up; and the profile's table."""
    subject = prepare("noop", folder)
    tool = "wrk" if options.native else "python"
    run = Run(model=subject.name, machine=machine.facts(), conditions={"tool": tool, "callers": options.callers})
    ours = start_ours(subject, folder)
    with ours.process:
        _by_python(ours, options, folder, seconds=2)  # loads the model and warms everything up
        for number in range(options.windows):
            window = _driven(ours, options, folder, seconds=options.seconds)
            run.windows.append(window)
            say(f"window {number + 1}: {window.per_s:.0f} requests/s, {api_us(window):.0f} us of API CPU a request")
        profiled = _profiled(ours, options, folder) if options.profile else ""
    return run, profiled


def _profiled(ours: Server, options: Options, folder: Path) -> str:
    """The table of a window under py-spy, which slows the worker down: no number comes from it."""
    recording, file = profile.recording(profile.api_worker(ours.process.tree()), seconds=options.seconds, folder=folder)
    with recording:
        _driven(ours, options, folder, seconds=options.seconds + 2)
        recording.popen.wait(timeout=60)
    if not file.exists():
        raise Trouble(f"py-spy left no profile:\n{recording.last_words()}")
    return profile.markdown(file.read_text())


def api_us(window: Window) -> float:
    """Microseconds of CPU of the API workers per request."""
    return 1e6 * window.cpu_s.get(cpu.API_ROLE, 0.0) / max(window.items, 1)


def markdown(run: Run) -> str:
    """The table and whether the promise holds."""
    head = ("windows", "requests/s", "API us/request", "all processes us/request", "p50 ms", "p99 ms", "failed")
    api = spread([api_us(window) for window in run.windows])
    row = [
        str(api.count),
        ends(spread([window.per_s for window in run.windows])),
        ends(api),
        ends(spread([1000 * window.cpu_ms for window in run.windows])),
        f"{spread([window.p50_ms or 0.0 for window in run.windows]).median:.1f}",
        f"{spread([window.p99_ms or 0.0 for window in run.windows]).median:.1f}",
        str(sum(window.failed for window in run.windows)),
    ]
    held = "held" if api.median <= MAX_API_US else "NOT held"
    said = run.conditions
    return (
        f"### The hop: no-op model, {said['callers']} callers over HTTP, driven by {said['tool']}\n\n"
        f"{table(head, [row])}\n\nAPI CPU at most {MAX_API_US:.0f} us a request: {held}.\n"
    )


def _driven(ours: Server, options: Options, folder: Path, *, seconds: int) -> Window:
    if options.native:
        return by_wrk(ours, options.callers, folder, seconds=seconds)
    return _by_python(ours, options, folder, seconds=seconds)


def by_wrk(ours: Server, callers: int, folder: Path, *, seconds: int) -> Window:
    """Texts to the no-op model, driven by wrk."""
    before = cpu.sample(ours.process.tree())
    url = f"http://{HOST}:{ours.http_port}/v1/embed/text"
    got = wrk.drive(url, model="noop", callers=callers, seconds=seconds, folder=folder)
    by_role = cpu.spent(before, cpu.sample(ours.process.tree()))
    return Window(
        party="ours",
        point=Point("http", callers),
        pair=None,
        items=got.items,
        wall_s=got.wall_s,
        cpu_s=by_role,
        failed=got.failed,
        p50_ms=got.p50_ms,
        p95_ms=got.p95_ms,
        p99_ms=got.p99_ms,
    )


def _by_python(ours: Server, options: Options, folder: Path, *, seconds: int) -> Window:
    load = Load(
        party="ours",
        face="http",
        port=ours.http_port,
        model="noop",
        callers=options.callers,
        lead_s=LEAD_S,
        window_s=seconds,
        pictures=None,
    )
    return measure(ours, load, logs=folder)


def ends(spread_: Spread) -> str:
    """Whole numbers: the median, the smallest, the largest."""
    return f"{spread_.median:.0f} [{spread_.low:.0f} .. {spread_.high:.0f}]"
