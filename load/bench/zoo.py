"""More models than fit into memory, some asked for often and others seldom: nothing fails, and the budget is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from load.bench import control, lru, pictures, resident
from load.bench.callers import Load
from load.bench.driver import measure
from load.bench.processes import Trouble
from load.bench.resident import Memory, Sampler
from load.bench.results import Window
from load.bench.servers import Server, start_registry
from load.bench.verdicts import Line, Report, mebibytes

MODELS = 6
FIT = 3
ROOM = 3.5
"""The budget in footprints: three fit, with room for what they differ by, and a fourth does not."""
MINUTES = 5.0
CALLERS = 32
MOST_ABOVE = 1.10
RUNNER = "runner-"
EVICTIONS, LOADS = "modelmora_model_evictions_total", "modelmora_model_loads_total"
LEAST_BYTES = 150 * 10**6
_ABOVE = ("MiB above", "of its own", "budget MiB")
ARCHITECTURE: Mapping[str, Any] = MappingProxyType(
    {
        "embed_dim": 384,
        "vision_cfg": {"image_size": 224, "layers": 8, "width": 384, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 4},
    }
)
"""A small CLIP whose weights take 165 MB: quick to compute, so that much is loaded and evicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was measured: the budget and a model's footprint in bytes, the runner's memory, counts over the window."""

    budget: int
    footprint: int
    baseline: Memory
    peak: Memory
    evictions: int
    loads: int
    replay: lru.Replay
    window: Window

    @property
    def above(self) -> Memory:
        """What the runner took above its baseline at most."""
        return Memory(self.peak.resident - self.baseline.resident, self.peak.own - self.baseline.own)


def zoo(work: Path, folder: Path, *, minutes: float, quick: bool, say: Callable[[str], None]) -> Report:
    """Weighs one model, then gives the server room for three of six."""
    weights = prepare(work)
    images = folder / "pictures"
    pictures.draw(images)
    footprint = _weigh(weights, folder)
    budget = int(ROOM * footprint)
    say(f"one model takes {mebibytes(footprint)} MiB; the budget is {mebibytes(budget)} MiB")
    ours = start_registry(registry(weights, budget), folder / "zoo", log_level="debug")
    with ours.process:
        baseline = _baseline(ours)
        say(f"the runner takes {mebibytes(baseline.resident)} MiB after one load, warm-up and unload")
        counted, logged = _counted(ours), len(_lines(ours))
        with Sampler(ours.process.tree()) as sampler:
            window = measure(ours, _load(ours, images, 10.0 if quick else minutes * 60), logs=folder)
        evicted, loaded = (after - before for before, after in zip(counted, _counted(ours), strict=True))
    seen = Seen(
        budget=budget, footprint=footprint, baseline=baseline, peak=sampler.peak(RUNNER), evictions=int(evicted),
        loads=int(loaded), replay=lru.replay(events(_lines(ours)[logged:])), window=window,
    )  # fmt: skip
    return report(seen, quick=quick)


def report(seen: Seen, *, quick: bool = False) -> Report:
    """Each eviction must be that of an LRU replay of the runner's own log of uses, or forced by a lease."""
    window, most = seen.window, int(seen.budget * MOST_ABOVE)
    above = f"{mebibytes(seen.above.resident)} MiB above the baseline, at most {mebibytes(most)} (the budget and 10 %)"
    replay = seen.replay
    evicted = (
        f"{seen.evictions} evictions: {replay.oldest} as an LRU replay of the access log has them, "
        f"{replay.forced} forced by leases of older ones, {replay.wrong} others"
    )
    return Report(
        title=f"Zoo: {MODELS} models of which {FIT} fit, {CALLERS} callers, {window.wall_s / 60:.1f} minutes",
        head=("items/s", "p50 ms", "p99 ms", "failed", "loads", "evictions", "LRU replay", "forced", *_ABOVE),
        rows=[
            [
                f"{window.per_s:.1f}", f"{window.p50_ms or 0:.0f}", f"{window.p99_ms or 0:.0f}", str(window.failed),
                str(seen.loads), str(seen.evictions), str(replay.oldest), str(replay.forced),
                mebibytes(seen.above.resident), mebibytes(seen.above.own), mebibytes(seen.budget),
            ]
        ],
        lines=[
            Line(said=f"{window.failed} requests failed", held=window.failed == 0),
            Line(said=above, held=seen.above.resident <= most),
            Line(said=evicted, held=0 < seen.evictions == replay.evictions and not replay.wrong, timed=True),
        ],
        quick=quick,
        facts=asdict(seen),
    )  # fmt: skip


def prepare(work: Path) -> list[Path]:
    """Six folders of random weights, made where they are not there yet."""
    folders = [work / f"zoo-{number}" for number in range(MODELS)]
    for seed, folder in enumerate(folders):
        if not (folder / "open_clip_config.json").exists():
            from load.random_weights import write_random  # noqa: PLC0415 (imports torch; seldom needed)

            write_random(ARCHITECTURE, folder, seed=seed)
        if (size := sum(file.stat().st_size for file in folder.iterdir())) < LEAST_BYTES:
            raise Trouble(f"{folder} holds {size} bytes, less than {LEAST_BYTES}; remove it, it is made anew")
    return folders


def registry(folders: Sequence[Path], memory: int | None) -> str:
    """A ModelRegistry.yaml with all of them, in one group with this budget."""
    rows = [
        {
            "name": folder.name, "version": "1.0.0", "type": "embedding", "provider": "open_clip",
            "source": f"file:{folder}", "device": "cpu", "default": number == 0,
        }
        for number, folder in enumerate(folders)
    ]  # fmt: skip
    group: dict[str, Any] = {"workers": 1, **({"resources": {"memory": memory}} if memory else {})}
    return yaml.safe_dump({"version": 1, "groups": {"default": group}, "models": rows}, sort_keys=False)


def _weigh(weights: Sequence[Path], folder: Path) -> int:
    """The footprint of one model as the server measures it at its first load, a full batch of each task included."""
    ours = start_registry(registry(weights, None), folder / "weigh")
    with ours.process:
        control.ask(ours.http_port, "POST", f"/api/v1/models/{weights[1].name}/load")
        return int(control.ask(ours.http_port, "GET", f"/api/v1/models/{weights[1].name}")["bytes"])


def _baseline(ours: Server) -> Memory:
    """The runner after one load, warm-up and unload."""
    for verb in ("load", "warmup", "unload"):
        control.ask(ours.http_port, "POST", f"/api/v1/models/zoo-0/{verb}")
    return resident.of_role(resident.sizes(ours.process.tree()), RUNNER)


def _counted(ours: Server) -> tuple[float, float]:
    """Evictions and loads so far."""
    return control.metric(ours.http_port, EVICTIONS), control.metric(ours.http_port, LOADS, code="ok")


def _lines(ours: Server) -> list[str]:
    """The log so far."""
    return ours.process.log.read_text(errors="replace").splitlines()


def events(lines: Sequence[str]) -> Iterator[lru.Event]:
    """What the runner logged of its models; other lines may stand between."""
    for line in lines:
        if '"event": "model_used"' in line or '"event": "model_loaded"' in line:
            yield lru.Used(_key(json.loads(line)))
        elif '"event": "model_evicted"' in line:
            said = json.loads(line)
            yield lru.Evicted(_key(said), said["kept"], short=said["need"] > said["free"])


def _key(said: Mapping[str, Any]) -> str:
    return f"{said['model']}@{said['version']}"


def _load(ours: Server, images: Path, window_s: float) -> Load:
    return Load(
        party="ours", face="http", port=ours.http_port, model="zoo-0", callers=CALLERS, lead_s=3.0,
        window_s=window_s, pictures=str(images), models=tuple(f"zoo-{number}" for number in range(MODELS)),
    )  # fmt: skip
