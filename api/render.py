"""Our values as plain JSON-ready dictionaries, shared by every HTTP route."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from modelmora.domain.inference import Embedded, Timings, Vector
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import Fault
from modelmora.ports import ModelReport
from modelmora.usecases.embed import Embeddings
from modelmora.usecases.health import HealthReport
from modelmora.usecases.models import ModelStatus


def to_json(value: object) -> bytes:
    """JSON; float32 arrays in their shortest exact form."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def vector(value: Vector, encoding: str) -> NDArray[np.float32] | str:
    """A float32 array for `to_json`, or base64 of the little-endian float32 bytes."""
    if encoding == "base64":
        return base64.b64encode(value.data).decode("ascii")
    return np.frombuffer(value.data, "<f4")


def fault(value: Fault) -> dict[str, Any]:
    """A fault without its empty fields."""
    pairs = {
        "index": value.index,
        "code": value.code,
        "detail": value.detail,
        "field": value.field,
        "found": value.found,
        "expected": value.expected,
    }
    return {key: sayable(item) if isinstance(item, str) else item for key, item in pairs.items() if item is not None}


def sayable(text: str) -> str:
    """A text that may hold what a caller sent, with half surrogate pairs, which UTF-8 has not, spelt out."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def outcomes(values: Sequence[Outcome[Embedded]], encoding: str) -> list[dict[str, Any]]:
    """`{"index", "embedding"}` or `{"index", "error"}` for each, in order."""
    rows: list[dict[str, Any]] = []
    for index, outcome in enumerate(values):
        match outcome:
            case Ok(value):
                rows.append({"index": index, "embedding": vector(value.vector, encoding)})
            case Failed(error):
                rows.append({"index": index, "error": fault(error.as_fault())})
    return rows


def embeddings(answer: Embeddings, encoding: str) -> dict[str, Any]:
    """The many-item answer of `/v1/embed/*`."""
    dimension = next((o.value.vector.dimension for o in answer.outcomes if isinstance(o, Ok)), 0)
    return {
        "model": answer.model.name,
        "version": answer.model.version,
        "dimension": dimension,
        "data": outcomes(answer.outcomes, encoding),
    }


def server_timing(timings: Timings, total_ms: float) -> str:
    """The Server-Timing header's text; gRPC's trailing metadata is the same."""
    return (
        f"queue;dur={timings.queue_ms:.2f}, preprocess;dur={timings.preprocess_ms:.2f}, "
        f"inference;dur={timings.inference_ms:.2f}, total;dur={total_ms:.2f}"
    )


def item_timing(outcome: Outcome[Embedded], total_ms: float) -> str:
    """The same for one item of a stream; empty where it failed."""
    return server_timing(outcome.value.timings, total_ms) if isinstance(outcome, Ok) else ""


def model(status: ModelStatus) -> dict[str, Any]:
    """A model as the control plane shows it."""
    spec = status.spec
    shown: dict[str, Any] = {
        "name": spec.name,
        "version": spec.version,
        "type": spec.type,
        "provider": spec.provider,
        "source": spec.source,
        "group": spec.group,
        "default": spec.default,
        "device": spec.device,
        "precision": spec.precision,
        "engine": spec.engine,
        "state": status.state,
        "bytes": status.bytes,
        "workers": list(status.workers),
    }
    return shown if status.error is None else {**shown, "error": status.error}


def report(value: ModelReport) -> dict[str, Any]:
    """What load, unload and warm-up answer; warm-up with its batches."""
    shown: dict[str, Any] = {
        "model": value.model,
        "version": value.version,
        "state": value.state,
        "workers": list(value.workers),
        "ms": round(value.ms, 1),
        "bytes": value.bytes,
    }
    if not value.warmed:
        return shown
    return {**shown, "warmup": [{"task": w.task, "batch": w.items, "ms": round(w.ms, 2)} for w in value.warmed]}


def health(value: HealthReport, version: str) -> dict[str, Any]:
    """The body of /health."""
    return {
        "status": value.status,
        "version": version,
        "uptime_s": round(value.uptime_s, 1),
        "models": [
            {"name": m.spec.name, "version": m.spec.version, "state": m.state, "bytes": m.bytes}
            | ({"error": m.error} if m.error else {})
            for m in value.models
        ],
        "memory": dict(value.memory),
        "runners": {
            group: {"ready": ready, "live": live, "wanted": wanted}
            for group, (ready, live, wanted) in value.readiness.runners.items()
        },
        "dependencies": {name: look.told() for name, look in value.dependencies.items()},
    }
