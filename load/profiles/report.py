"""What was met, as Markdown with plots beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from load.bench.tables import table
from load.profiles.recording import ALL, Request, Row, Usage, percentile, rows, usage
from load.profiles.stages import Profile

WINDOW_S = 5
MIB = 2**20


def markdown(
    name: str, profile: Profile, conditions: Mapping[str, object], requests: Sequence[Request], seen: Sequence[Usage]
) -> str:
    """The tables; the plots are the files that `plot` writes, in the same folder."""
    found = rows(profile, requests)
    told = "\n".join(f"- {key}: {value}" for key, value in conditions.items())
    used = usage(profile, seen)
    watched = f"## What the server used\n\n{_used(profile, used)}\n\n![Cores and memory]({name}-usage.svg)\n"
    return (
        f"# {name}: {profile.about}\n\n{told}\n\n## What users met\n\n{_met(found)}\n\n"
        f"![Requests a second, latency and failures over time]({name}-requests.svg)\n\n{watched if used else ''}"
    )


def _met(found: Sequence[Row]) -> str:
    head = ("users", "request", "answered/s", "p50 ms", "p95 ms", "p99 ms", "failed", "codes")
    lines = [
        [
            str(row.users),
            f"**{row.name}**" if row.name == ALL else row.name,
            f"{row.per_s:.1f}",
            *(f"{ms:.0f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
            str(row.failed),
            ", ".join(f"{code}: {count}" for code, count in sorted(row.codes.items())),
        ]
        for row in found
    ]
    return table(head, lines)


def _used(profile: Profile, used: Mapping[tuple[int, str], tuple[float, int]]) -> str:
    roles = sorted({role for _, role in used})
    head = ("users", *(f"{role}: cores, MiB" for role in roles))
    lines = [
        [str(stage.users), *(_amount(used.get((place, role))) for role in roles)]
        for place, stage in enumerate(profile.stages)
    ]
    return table(head, lines)


def _amount(amount: tuple[float, int] | None) -> str:
    return "" if amount is None else f"{amount[0]:.2f}, {amount[1] / MIB:.0f}"


def plot(name: str, profile: Profile, requests: Sequence[Request], seen: Sequence[Usage], folder: Path) -> list[Path]:
    """Two files; the second only where processes were watched. Takes matplotlib."""
    from matplotlib import use  # noqa: PLC0415 - not where only tables are made

    use("svg")
    written = [_plot_requests(profile, requests, folder / f"{name}-requests.svg")]
    if seen:
        written.append(_plot_usage(seen, folder / f"{name}-usage.svg"))
    return written


def _plot_requests(profile: Profile, requests: Sequence[Request], file: Path) -> Path:
    from matplotlib import pyplot  # noqa: PLC0415 - as above

    windows: dict[int, list[Request]] = defaultdict(list)
    for request in requests:
        windows[int(request.at_s // WINDOW_S)].append(request)
    at = sorted(windows)
    answered = [sorted(r.ms for r in windows[w] if not r.code) for w in at]
    figure, (rate, latency) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    seconds = [w * WINDOW_S for w in at]
    rate.step(seconds, [len(some) / WINDOW_S for some in answered], where="post", label="answered/s")
    rate.step(seconds, [sum(bool(r.code) for r in windows[w]) / WINDOW_S for w in at], where="post", label="failed/s")
    for share in (0.5, 0.95, 0.99):
        latency.step(seconds, [percentile(some, share) for some in answered], where="post", label=f"p{share * 100:.0f}")
    latency.set_yscale("log")
    latency.set_ylabel("ms")
    latency.set_xlabel("s")
    begun = 0.0
    for stage in profile.stages:
        rate.axvline(begun, color="0.8", linewidth=0.8)
        rate.annotate(f"{stage.users}", (begun, 1.0), xycoords=("data", "axes fraction"), fontsize=8)
        begun += stage.seconds
    for axes in (rate, latency):
        axes.legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
    return file


def _plot_usage(seen: Sequence[Usage], file: Path) -> Path:
    from matplotlib import pyplot  # noqa: PLC0415 - as above

    by_role: dict[str, dict[float, list[Usage]]] = defaultdict(lambda: defaultdict(list))
    for sample in seen:
        by_role[sample.role][sample.at_s].append(sample)
    figure, (cores, memory) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    for role, moments in sorted(by_role.items()):
        at = sorted(moments)
        cores.plot(at, [sum(s.cores for s in moments[t]) for t in at], label=role, linewidth=1)
        memory.plot(at, [sum(s.resident for s in moments[t]) / MIB for t in at], label=role, linewidth=1)
    cores.set_ylabel("cores")
    memory.set_ylabel("MiB resident")
    memory.set_xlabel("s")
    cores.legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
    return file
