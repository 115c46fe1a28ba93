"""The control plane of the small server of the client's tests: what it knows, and what it answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from modelmora.errors import ModelMoraError


def model_entry(name: str = "shapes-clip", version: str = "1.0.0", **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "type": "embedding",
        "provider": "open_clip",
        "source": "bundled:shapes-clip",
        "group": "default",
        "default": name == "shapes-clip",
        "device": "cpu",
        "precision": "fp32",
        "engine": "torch",
        "state": "loaded",
        "bytes": 12 * 2**20,
        "workers": ["default-1"],
        "a_field_of_a_newer_server": 1,
    } | changed


STEPS = [{"stage": "measuring", "engine": "torch", "precision": "fp32", "done": done, "total": 2} for done in (1, 2)]


def report_entry(**changes: Any) -> dict[str, Any]:
    """What `verify` reports of a model whose bf16 passes."""
    near = {"lowest": 0.99991, "mean": 0.99995, "overlap": 0.9875, "difference": 0.0031}
    same = {"lowest": 1.0, "mean": 1.0, "overlap": 1.0, "difference": 0.0}
    formats = (("torch", "fp32", "reference", same, 40.0), ("openvino", "bf16", "passes", near, 18.5))
    report = {
        "stage": "report",
        "model": "shapes-clip",
        "version": "1.0.0",
        "device": "cpu",
        "engine": "torch",
        "precision": "fp32",
        "declared": {"engine": "auto", "precision": "auto"},
        "gate": 0.999,
        "passes": True,
        "auto": {"engine": "openvino", "precision": "bf16"},
        "candidates": [
            {
                "engine": engine,
                "precision": precision,
                "verdict": verdict,
                "likeness": {"embed_image": likeness, "embed_text": likeness},
                "ms": {"embed_image": ms, "embed_text": 2.0},
                "failed": None,
            }
            for engine, precision, verdict, likeness, ms in formats
        ],
    }
    return {**report, **changes}


def tuned_entry() -> dict[str, Any]:
    """What `tune` reports of a model that two lanes serve best."""
    rows = [
        {
            "batch": batch,
            "lanes": lanes,
            "threads": 2 // lanes,
            "items_per_s": rate,
            "batch_ms": 1000 * batch * lanes / rate,
            "lone_ms": 12.5,
            "memory_bytes": 3 * 2**20,
            "steady": rate > 50,
        }
        for batch, lanes, rate in ((1, 1, 40.0), (4, 2, 80.0))
    ]
    return {
        "stage": "report",
        "model": "shapes-clip",
        "version": "1.0.0",
        "task": "embed_image",
        "device": "cpu",
        "engine": "torch",
        "precision": "fp32",
        "group": "default",
        "rows": rows,
        "best": rows[1],
        "settings": {"resources": {"cpu": 2}, "batching": {"max_batch": 4}},
    }


@dataclass(slots=True)
class Plane:
    """What the control plane answers; a `str` among the lines of an answer is sent as it is."""

    models: list[dict[str, Any]] = field(
        default_factory=lambda: [model_entry(), model_entry("vit-b-32", state="unloaded", bytes=0, workers=[])]
    )
    health: tuple[int, dict[str, Any]] = (
        200,
        {
            "status": "ok",
            "version": "0.1.0",
            "uptime_s": 3723,
            "models": [{"name": "shapes-clip", "version": "1.0.0", "state": "loaded", "bytes": 12582912}],
            "dependencies": {"database": {"status": "ok"}},
        },
    )
    pull: list[Any] = field(
        default_factory=lambda: [
            {"model": "vit-b-32@1.0.0", "done_bytes": 1024, "total_bytes": 4096, "licence": "MIT", "finished": False},
            {"model": "vit-b-32@1.0.0", "done_bytes": 4096, "total_bytes": 4096, "licence": "MIT", "finished": True},
        ]
    )
    findings: list[dict[str, Any]] = field(default_factory=lambda: [*STEPS, report_entry()])
    progress: list[Any] = field(default_factory=list)
    troubles: deque[ModelMoraError] = field(default_factory=deque)
    requests: list[tuple[str, str]] = field(default_factory=list)
