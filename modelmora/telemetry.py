"""What is counted: Prometheus metrics at module level."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter as Tally
from collections.abc import Mapping
from typing import Literal

from prometheus_client import Gauge, multiprocess

from modelmora.domain.inference import Inference, Timings
from modelmora.domain.models import Task
from modelmora.domain.outcome import Ok
from modelmora.tallies import Counter, Histogram

_STAGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

ITEMS = Counter("modelmora_items", "Items answered", ["model", "version", "task", "face", "code"])
REQUEST_SECONDS = Histogram(
    "modelmora_inference_seconds", "Whole inference requests", ["model", "version", "task", "face"], buckets=_STAGES
)
QUEUE_SECONDS = Histogram(
    "modelmora_queue_seconds", "Time of an item in the runner's queue", ["model", "version", "task"], buckets=_STAGES
)
PREPROCESS_SECONDS = Histogram(
    "modelmora_preprocess_seconds", "Decoding or tokenising an item", ["model", "version", "task"], buckets=_STAGES
)
CACHED = Counter("modelmora_cache_requests", "Items that the cache was asked for, by what came of it", ["task", "code"])
CACHE_BYTES = Gauge("modelmora_cache_bytes", "Bytes of embeddings in memory", multiprocess_mode="livesum")
CACHE_ERRORS = Counter("modelmora_cache_errors", "Questions that the cache's server did not answer")
OUTBOX_WAITING = Gauge(
    "modelmora_outbox_waiting", "Events that are not carried yet", multiprocess_mode="livemostrecent"
)
EVENTS_RELAYED = Counter("modelmora_events_relayed", "Events carried, or why not", ["code"])
INGESTED = Counter("modelmora_ingested", "Ways of announced pictures, by what became of them", ["code"])
WAYS = Gauge("modelmora_ways", "Ways of pictures in each state", ["code"], multiprocess_mode="livemostrecent")
DEAD_LETTERS = Gauge("modelmora_dead_letters", "Letters that nobody replayed", multiprocess_mode="livemostrecent")
REQUESTS = Counter("modelmora_requests", "Requests answered, by face and error code", ["face", "code"])
ANSWER_SECONDS = Histogram(
    "modelmora_request_seconds",
    "Requests of all kinds, from their head to the end of the answer",
    ["face"],
    buckets=_STAGES,
)
READY = Gauge("modelmora_ready", "1 while every API worker is ready", multiprocess_mode="livemin")
DEPENDENCY_UP = Gauge(
    "modelmora_dependency_up", "1 while a store answered when it was last asked", ["code"], multiprocess_mode="livemin"
)
WORKERS = Gauge(
    "modelmora_runner_workers", "Runner workers: ready, live, wanted", ["code"], multiprocess_mode="livemostrecent"
)
MEMORY_BYTES = Gauge(
    "modelmora_runner_memory_bytes",
    "Of all runner workers: held by models, their budget, resident in all",
    ["code"],
    multiprocess_mode="livemostrecent",
)


class _Series:
    """The series of one version, task and face, found once: each look-up by labels costs as much as a count."""

    def __init__(self, labels: tuple[str, str, str, str]) -> None:
        self._labels = labels
        self.seconds = REQUEST_SECONDS.labels(*labels)
        self.queue = QUEUE_SECONDS.labels(*labels[:3])
        self.preprocess = PREPROCESS_SECONDS.labels(*labels[:3])
        self._items: dict[str, Counter] = {}

    def items(self, code: str) -> Counter:
        found = self._items.get(code)
        if found is None:
            found = self._items[code] = ITEMS.labels(*self._labels, code)
        return found


_seconds_of = functools.cache(ANSWER_SECONDS.labels)
_requests_of = functools.lru_cache(maxsize=1024)(REQUESTS.labels)


def count_request(face: str, code: str, seconds: float) -> None:
    """One answer of a door."""
    _requests_of(face, code).inc()
    _seconds_of(face).observe(seconds)


_REMEMBERED = Timings()
"""Of what was not computed: it was in no queue."""

_series = functools.lru_cache(maxsize=4096)(_Series)


def count_inference(record: Inference) -> None:
    """The hook that turns an inference record into metrics."""
    series = _series((record.model.name, record.model.version, record.task, record.call.face))
    done = 0
    computed: list[Timings] = []
    failed: list[str] = []
    for outcome in record.outcomes:
        if isinstance(outcome, Ok):
            done += 1
            if outcome.value.timings != _REMEMBERED:
                computed.append(outcome.value.timings)
        else:
            failed.append(outcome.error.code)
    series.seconds.observe(record.total_ms / 1e3)
    if failed:
        for code, count in Tally(failed).items():
            series.items(code).inc(count)
    if done:
        series.items("ok").inc(done)
    if computed:
        series.queue.observe(max(t.queue_ms for t in computed) / 1e3)
        series.preprocess.observe(max(t.preprocess_ms for t in computed) / 1e3)


@functools.cache
def _cached(task: str, code: str) -> Counter:
    return CACHED.labels(task, code)


def count_cached(task: Task, code: Literal["hit", "miss", "joined", "error"], items: int) -> None:
    """`miss`: computed for who asked; `joined`: for another, at the same time; `error`: what lay there could not be
    read, and is counted as one of those too."""
    if items:
        _cached(task, code).inc(items)


def show_health(*, ready: bool, up: Mapping[str, bool], workers: Mapping[str, int], memory: Mapping[str, int]) -> None:
    """What `/health` says, as gauges; `workers` and `memory` by what they count."""
    READY.set(ready)
    for name, answers in up.items():
        DEPENDENCY_UP.labels(name).set(answers)
    for kind, count in workers.items():
        WORKERS.labels(kind).set(count)
    for kind, size in memory.items():
        MEMORY_BYTES.labels(kind).set(size)


def forget(pid: int) -> None:
    """Drops the gauges of a process that is gone: a killed one would hold its memory for ever."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder:
        with contextlib.suppress(FileNotFoundError):  # another API worker was faster
            multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call] # the library's
