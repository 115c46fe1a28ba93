"""What a number was measured on; without it the number means nothing."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from load.bench.processes import ROOT
from runners.devices import cores

_PACKAGES = (
    "bentoml", "grpcio", "litserve", "numpy", "open-clip-torch", "pillow", "torch", "torchvision", "uvicorn", "uvloop",
)  # fmt: skip
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def facts() -> Mapping[str, object]:
    """The processor, its cores and what it can, the versions of what runs on it, the commit and the time."""
    model, flags = _processor()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": model,
        "cores": cores(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_average_at_start": psutil.getloadavg()[0],
    }


def _processor() -> tuple[str, frozenset[str]]:
    """Its name and feature flags, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name", platform.machine()), frozenset(flags.split())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of the repository, with `+` when files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
