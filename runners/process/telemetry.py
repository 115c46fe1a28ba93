"""What a runner worker counts: its pool's models and memory, its batcher's queues and batches."""

from __future__ import annotations

import functools

from prometheus_client import Gauge

from modelmora.domain.models import ModelSpec, Task
from modelmora.tallies import Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TASK = ["model", "version", "task"]

QUEUE_DEPTH = Gauge("modelmora_queue_depth", "Items waiting for a batch", _TASK, multiprocess_mode="livesum")
OVERLOADS = Counter("modelmora_overloads", "Items refused because the queue was full", _TASK)
BATCH_ITEMS = Histogram("modelmora_batch_items", "Items in a batch", _TASK, buckets=_ITEMS)
BATCH_SECONDS = Histogram("modelmora_batch_seconds", "Time of a batch in its lane", _TASK, buckets=_SECONDS)
BISECT_FORWARDS = Counter("modelmora_bisect_forwards", "Extra forwards to find what is at fault", _TASK)
HALVINGS = Counter("modelmora_batch_halvings", "Batches halved because they did not fit into memory", _TASK)

LOADS = Counter("modelmora_model_loads", "Loads of a model, by how they ended", ["model", "version", "code"])
EVICTIONS = Counter("modelmora_model_evictions", "Models unloaded to make room", ["model", "version"])
LOAD_SECONDS = Histogram(
    "modelmora_model_load_seconds", "Loads that succeeded", ["model", "version"], buckets=_LOAD_SECONDS
)
MODEL_BYTES = Gauge(
    "modelmora_model_bytes",
    "Measured footprint of a model in memory, over all workers",
    ["model", "version"],
    multiprocess_mode="livesum",
)
DEVICE_BYTES = Gauge(
    "modelmora_device_memory_bytes",
    "Measured footprints of all models in a device's memory, over all workers",
    ["device"],
    multiprocess_mode="livesum",
)


class _Batches:
    """The series of one version and task, found once: a look-up by labels costs as much as a count."""

    def __init__(self, *labels: str) -> None:
        self.depth = QUEUE_DEPTH.labels(*labels)
        self.items = BATCH_ITEMS.labels(*labels)
        self.seconds = BATCH_SECONDS.labels(*labels)
        self.extra = BISECT_FORWARDS.labels(*labels)


_batches = functools.lru_cache(maxsize=4096)(_Batches)


def queue_depth(spec: ModelSpec, task: Task) -> Gauge:
    """The gauge of one model's and task's waiting items, over all its queues."""
    return _batches(spec.name, spec.version, task).depth


def count_overload(spec: ModelSpec, task: Task) -> None:
    """An item was refused: its queue is full."""
    OVERLOADS.labels(spec.name, spec.version, task).inc()


def count_batch(spec: ModelSpec, task: Task, *, items: int, seconds: float, extra: int) -> None:
    """A batch came back; `extra` forwards were needed to find what is at fault."""
    series = _batches(spec.name, spec.version, task)
    series.items.observe(items)
    series.seconds.observe(seconds)
    if extra:
        series.extra.inc(extra)


def count_halving(spec: ModelSpec, task: Task) -> None:
    """A batch did not fit into the memory there is."""
    HALVINGS.labels(spec.name, spec.version, task).inc()
