"""More models than fit into memory, some asked for often and others seldom: nothing fails, and the budget is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from load.bench import control, lru, pictures, resident, zipf
from load.bench.callers import Load
from load.bench.driver import observe
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
_ABOVE = ("MiB above", "with pages of files", "budget MiB")
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
    replayed: int
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
    ours = start_registry(registry(weights, budget), folder / "zoo")
    with ours.process:
        baseline = _baseline(ours)
        say(f"the runner takes {mebibytes(baseline.own)} MiB of its own after one load, warm-up and unload")
        counted = _counted(ours)
        with Sampler(ours.process.tree()) as sampler:
            window, heard = observe(ours, _load(ours, images, 10.0 if quick else minutes * 60), logs=folder)
        evicted, loaded = (after - before for before, after in zip(counted, _counted(ours), strict=True))
    replayed = lru.evictions((zipf.draw(number, MODELS) for number in heard["order"]), fits=FIT)
    seen = Seen(
        budget=budget, footprint=footprint, baseline=baseline, peak=sampler.peak(RUNNER), evictions=int(evicted),
        loads=int(loaded), replayed=replayed, window=window,
    )  # fmt: skip
    return report(seen, quick=quick)


def report(seen: Seen, *, quick: bool = False) -> Report:
    """Answers come in batches, and a model in use is passed over, so that the replay of the answers is a bound."""
    window, most = seen.window, int(seen.budget * MOST_ABOVE)
    above = f"{mebibytes(seen.above.own)} MiB above the baseline, at most {mebibytes(most)} (the budget and 10 %)"
    evicted = f"{seen.evictions} evictions, at most the {seen.replayed} of an LRU replay of the answers in their order"
    return Report(
        title=f"Zoo: {MODELS} models of which {FIT} fit, {CALLERS} callers, {window.wall_s / 60:.1f} minutes",
        head=("items/s", "p50 ms", "p99 ms", "failed", "loads", "evictions", "LRU replay", *_ABOVE),
        rows=[
            [
                f"{window.per_s:.1f}", f"{window.p50_ms or 0:.0f}", f"{window.p99_ms or 0:.0f}", str(window.failed),
                str(seen.loads), str(seen.evictions), str(seen.replayed), mebibytes(seen.above.own),
                mebibytes(seen.above.resident), mebibytes(seen.budget),
            ]
        ],
        lines=[
            Line(said=f"{window.failed} requests failed", held=window.failed == 0),
            Line(said=above, held=seen.above.own <= most),
            Line(said=evicted, held=0 < seen.evictions <= seen.replayed, timed=True),
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
    """The footprint of one model as the server measures it, batches included."""
    ours = start_registry(registry(weights, None), folder / "weigh")
    with ours.process:
        control.ask(ours.http_port, "POST", f"/api/v1/models/{weights[1].name}/warmup")
        return int(control.ask(ours.http_port, "GET", f"/api/v1/models/{weights[1].name}")["bytes"])


def _baseline(ours: Server) -> Memory:
    """The runner after one load, warm-up and unload."""
    for verb in ("load", "warmup", "unload"):
        control.ask(ours.http_port, "POST", f"/api/v1/models/zoo-0/{verb}")
    return resident.of_role(resident.sizes(ours.process.tree()), RUNNER)


def _counted(ours: Server) -> tuple[float, float]:
    """Evictions and loads so far."""
    return control.metric(ours.http_port, EVICTIONS), control.metric(ours.http_port, LOADS, code="ok")


def _load(ours: Server, images: Path, window_s: float) -> Load:
    return Load(
        party="ours", face="http", port=ours.http_port, model="zoo-0", callers=CALLERS, lead_s=3.0,
        window_s=window_s, pictures=str(images), models=tuple(f"zoo-{number}" for number in range(MODELS)),
    )  # fmt: skip
