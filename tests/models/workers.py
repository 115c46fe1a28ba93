"""Runner workers over one model's folder, whose provider does what a test wants to see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelSpec
from runners.devices import Share
from runners.examinations.parity import verify
from runners.host import HostSettings, RunnerHost
from runners.networks.open_clip.network import OpenClip
from runners.open_clip import OpenClipProvider
from runners.precision import Concrete
from runners.provider import Tell
from tests.folders import Folders
from tests.models.conftest import spec

AUTO = spec(precision="auto", warmup=False)


class Provider(OpenClipProvider):
    """The real one, of which a test may say what the hardware has, how slow fp32 is, and what bf16 does to weights."""

    def __init__(self) -> None:
        self.formats: tuple[Concrete, ...] = ("fp32", "bf16")
        self.drag_s = 0.0
        self.spoil: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.refuse: Exception | None = None
        self.breaks: Exception | None = None
        self.loads: list[str] = []

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        return self.formats

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> OpenClip:
        self.loads.append(spec.precision)
        if self.refuse is not None and spec.precision == "bf16":
            raise self.refuse
        model = super().load(spec, folder, device=device, threads=threads, tell=tell)
        if self.spoil is not None and model.precision == "bf16":
            _spoil(model, self.spoil)
        if self.breaks is not None and model.precision == "bf16":
            model._transfer = Breaking(self.breaks)
        if model.precision == "fp32":
            model._transfer = Dragging(model._transfer, self.drag_s)
        return model


class Dragging:
    """A transfer that takes its time: so that what is faster does not depend on this machine."""

    def __init__(self, transfer: Any, seconds: float) -> None:
        self._transfer = transfer
        self._seconds = seconds

    def run(self, batch: Any, compute: Any) -> NDArray[np.float32]:
        until = time.thread_time() + self._seconds
        while time.thread_time() < until:
            pass
        rows: NDArray[np.float32] = self._transfer.run(batch, compute)
        return rows


@dataclass
class Breaking:
    """A transfer to a device that does not know an operation."""

    cause: Exception

    def run(self, batch: Any, compute: Any) -> NDArray[np.float32]:
        raise self.cause


def _spoil(model: OpenClip, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter in model._model.parameters():
            parameter.copy_(how(parameter))


class Bench:
    """Workers over one model folder and one data folder, as processes that follow each other."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data
        self.provider = Provider()
        self.hosts: list[RunnerHost] = []

    def host(self, *models: ModelSpec, budget_bytes: int = 0) -> RunnerHost:
        settings = HostSettings(
            group="default",
            index=1,
            directory=self.data,
            share=Share(threads=2, budget_bytes=budget_bytes),
            drain_timeout_s=5.0,
            parity=self.data / "parity",
            engines=self.data / "engines",
        )
        catalogue = Catalogue(models or (AUTO,), (GroupSpec(),))
        host = RunnerHost(settings, catalogue, lambda _: self.provider, Folders(lambda _: self.folder))
        self.hosts.append(host)
        return host

    def decided(self) -> list[Path]:
        return [path for path in (self.data / "parity").glob("*.json") if not path.name.startswith("digest")]


async def steps_of(host: RunnerHost, model: ModelSpec = AUTO, **options: Any) -> list[dict[str, Any]]:
    return [step async for step in verify(host, model, deadline=time.monotonic() + 300, **options)]


async def report_of(host: RunnerHost, model: ModelSpec = AUTO, **options: Any) -> dict[str, Any]:
    return (await steps_of(host, model, **options))[-1]


def candidate(report: dict[str, Any], precision: str, engine: str = "torch") -> dict[str, Any]:
    asked = (engine, precision)
    found: dict[str, Any] = next(one for one in report["candidates"] if (one["engine"], one["precision"]) == asked)
    return found
