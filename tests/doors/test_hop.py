"""The hop between API and runner: real hosts on Unix sockets, a real fleet and handle, real deaths."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from modelmora.domain.description import Description
from modelmora.domain.inference import Content, Embedded, Image, Text
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import TextPreprocess
from modelmora.domain.progress import Step
from modelmora.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    ModelLoadFailed,
    OutOfMemory,
    Overloaded,
    ValidationFailed,
)
from runners.noop import PROVIDER as NOOP
from tests.doors.hop import Hop, call, own
from tests.doors.runner_process import noop
from tests.fakes import until
from tests.families import Family, Gate, row_of
from tests.support import end, start

NOOP_SPEC = noop(image_size=4, dimension=3, fail_on="BAD")
CLIP = ModelSpec(
    name="clip",
    version="1.0.0",
    type="embedding",
    provider="open_clip",
    source="file:somewhere",
    config={"architecture": "ViT-Z-99"},
)
OWN = own(max_batch=4, max_wait_ms=5.0, queue=6)


class Tokenizing(Family):
    """Its models take apart their texts themselves, and trip over some."""

    def prepare(self) -> None:
        """Nothing to import."""

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        text = TextPreprocess(tokenizer="runner", context_length=8)
        return Description(model=spec.key, dimension=2, text=text)


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Hop]:
    async with Hop(tmp_path, NOOP_SPEC, CLIP, OWN) as hop:
        yield hop


def shown(outcomes: Sequence[Outcome[Embedded]]) -> list[list[float] | str]:
    return [np.frombuffer(o.value.vector.data, "<f4").tolist() if isinstance(o, Ok) else o.error.code for o in outcomes]


def direct(*contents: bytes, spec: ModelSpec = NOOP_SPEC) -> list[list[float]]:
    """What the no-op model answers without any hop."""
    model = NOOP.load(spec, None, device="cpu", threads=1)
    return [row.tolist() for row in model.embed("embed_text", [np.frombuffer(c, np.uint8) for c in contents])]


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (9, 7), colour).save(file, "PNG")
    return file.getvalue()


async def test_texts_cross_and_come_back_in_order(hop: Hop) -> None:
    await hop.host()
    texts = [f"text {i} é" for i in range(20)]

    assert shown(await hop.texts(NOOP_SPEC, *texts)) == direct(*(text.encode() for text in texts))


async def test_pictures_are_decoded_here_and_cross_as_pixels(hop: Hop) -> None:
    await hop.host()
    colours = [(255, 0, 0), (0, 9, 0)]
    items: list[Content] = [Image(png(colours[0])), Image(b"no picture"), Image(png(colours[1]))]

    outcomes = await hop.inference.embed(NOOP_SPEC, "embed_image", items, call=call())

    red, dark = direct(bytes(colours[0]) * 16, bytes(colours[1]) * 16)
    assert shown(outcomes) == [red, "unsupported_media", dark]
    assert all(
        o.value.timings.inference_ms > 0 and o.value.timings.preprocess_ms > 0 for o in outcomes if isinstance(o, Ok)
    )


async def test_an_item_that_fails_over_there_fails_alone(hop: Hop) -> None:
    await hop.host()

    outcomes = await hop.texts(NOOP_SPEC, "a", "BAD", "b")

    assert shown(outcomes) == [direct(b"a")[0], "internal", direct(b"b")[0]]


async def test_an_error_crosses_with_all_it_says(hop: Hop) -> None:
    await hop.host()
    hop.family.bad = {
        b"typo": ValidationFailed("no such token", field="text", found="typo", expected="a word"),
        b"full": OutOfMemory("no room", retry_after_s=2.5),
    }

    typo, full = await hop.texts(OWN, "typo", "full")

    assert isinstance(typo, Failed)
    assert isinstance(typo.error, ValidationFailed)
    assert (typo.error.detail, typo.error.field, typo.error.found, typo.error.expected) == (
        "no such token",
        "text",
        "typo",
        "a word",
    )
    assert isinstance(full, Failed)
    assert isinstance(full.error, OutOfMemory)
    assert (full.error.retry_after_s, full.error.field) == (2.5, None)


async def test_what_a_model_cannot_take_is_refused_by_item(hop: Hop) -> None:
    await hop.host()

    outcome = await hop.inference.embed(OWN, "embed_image", [Image(png((1, 2, 3)))], call=call())

    assert shown(outcome) == ["capability_missing"]


async def test_a_model_that_fails_to_load_tells_its_callers_why(hop: Hop) -> None:
    await hop.host()
    hop.family.load_errors = [ModelLoadFailed("no such file: weights.bin")]

    first, again = await hop.texts(OWN, "a"), await hop.texts(OWN, "a")

    assert isinstance(first[0], Failed)
    assert first[0].error.detail == "no such file: weights.bin"
    assert shown(again) == [row_of(b"a")]


async def test_a_provider_that_trips_over_a_text_fails_that_text_alone(hop: Hop) -> None:
    hop.family = Tokenizing()
    trip = RuntimeError("secret")

    await hop.host()
    load = hop.family.load

    def loading(spec: ModelSpec, folder: Path | None, **how: Any) -> object:
        model = load(spec, folder, **how)
        tokenize = model.tokenize

        def tripping(text: str, *, truncate: bool) -> object:
            if "trip" in text:
                raise trip
            return tokenize(text, truncate=truncate)

        model.tokenize = tripping  # type: ignore[method-assign,assignment] # a model with a defect
        return model

    hop.family.load = loading  # type: ignore[method-assign,assignment] # as above

    outcomes = await hop.texts(OWN, "a", "trip", "b")

    assert shown(outcomes) == [row_of(b"a"), "internal", row_of(b"b")]
    assert len(hop.handle.workers()) == 1


async def test_a_caller_who_leaves_is_dropped_before_compute(hop: Hop) -> None:
    await hop.host()
    hop.family.running.close()
    first = asyncio.create_task(hop.texts(OWN, "first"))
    await until(hop.family.running.reached.is_set)
    leaving, staying = asyncio.create_task(hop.texts(OWN, "leaving")), asyncio.create_task(hop.texts(OWN, "staying"))
    await until(lambda: hop.hosts[0].batcher.queued() == 2)

    leaving.cancel()
    await until(lambda: hop.hosts[0].batcher.queued() == 1)  # the runner has heard of it
    hop.family.running.open()

    assert shown(await first + await staying) == [row_of(b"first"), row_of(b"staying")]
    assert b"leaving" not in hop.family.computed


async def test_a_deadline_passes_on_this_side_even_when_the_runner_hangs(hop: Hop) -> None:
    await hop.host()
    hop.family.running.close()

    started = time.monotonic()
    outcomes = await hop.texts(OWN, "a", "b", within_s=0.3)

    assert shown(outcomes) == ["deadline_exceeded"] * 2
    assert time.monotonic() - started < 20


async def test_a_full_queue_over_there_is_told_item_by_item(hop: Hop) -> None:
    await hop.host()
    hop.family.running.close()
    running = asyncio.create_task(hop.texts(OWN, "running"))
    await until(hop.family.running.reached.is_set)

    asked = asyncio.create_task(hop.texts(OWN, *[f"{i}" for i in range(8)]))
    await until(lambda: hop.hosts[0].batcher.queued() == 6)
    hop.family.running.open()

    codes = [o if isinstance(o, str) else "ok" for o in shown(await asked)]
    assert codes == ["ok"] * 6 + ["overloaded"] * 2
    assert shown(await running) == [row_of(b"running")]


async def test_beyond_the_permit_nothing_is_taken(hop: Hop) -> None:
    await hop.host()
    hop.family.running.close()
    first = asyncio.create_task(hop.texts(OWN, "first"))
    await until(hop.family.running.reached.is_set)

    with pytest.raises(Overloaded, match="1 items are in flight"):
        await hop.texts(NOOP_SPEC, *["x"] * 64)

    hop.family.running.open()
    await first
    assert len(await hop.texts(NOOP_SPEC, *["x"] * 64)) == 64


async def test_without_a_runner_each_caller_waits_for_the_own_deadline(hop: Hop) -> None:
    short = asyncio.create_task(hop.texts(NOOP_SPEC, "a", within_s=0.2))
    long = asyncio.create_task(hop.texts(NOOP_SPEC, "b"))

    with pytest.raises(DeadlineExceeded):
        await short
    assert not long.done()

    await hop.host()
    assert shown(await long) == direct(b"b")


async def test_a_described_model_waits_for_a_runner_until_the_deadline(hop: Hop) -> None:
    first = await hop.host()
    await hop.texts(NOOP_SPEC, "a")
    first._settings = replace(first._settings, drain_timeout_s=0.0)
    await first.stop()
    hop.hosts.remove(first)
    await until(lambda: not hop.handle.workers())

    assert shown(await hop.texts(NOOP_SPEC, "b", within_s=0.2)) == ["deadline_exceeded"]

    await hop.host(2)
    assert shown(await hop.texts(NOOP_SPEC, "c")) == direct(b"c")


async def test_loading_without_a_runner_says_so(hop: Hop) -> None:
    for change in (hop.handle.load, hop.handle.unload, hop.handle.warmup):
        with pytest.raises(DependencyUnavailable, match="no runner of group 'default' is up"):
            await change(OWN, deadline=time.monotonic() + 0.05)


async def test_an_unknown_architecture_is_refused_when_the_model_is_described(hop: Hop) -> None:
    await hop.host()

    for _ in range(2):  # and asked again, not remembered as described
        with pytest.raises(ModelLoadFailed, match=r"ViT-Z-99"):
            await hop.texts(CLIP, "a")
    assert len(hop.handle.workers()) == 1


async def test_a_change_reaches_every_worker_of_the_group(hop: Hop) -> None:
    await hop.host(1)
    await hop.host(2)
    await until(lambda: len(hop.handle.workers()) == 2)
    names = {f"default-{index}-{os.getpid()}" for index in (1, 2)}

    loaded = await hop.handle.load(OWN, deadline=time.monotonic() + 30)
    warm = await hop.handle.warmup(OWN, deadline=time.monotonic() + 30)
    await until(lambda: all(view.holdings[OWN.key].state == "loaded" for view in hop.handle.workers()))
    gone = await hop.handle.unload(OWN, deadline=time.monotonic() + 30)
    await until(lambda: all(view.holdings[OWN.key].state == "unloaded" for view in hop.handle.workers()))

    assert [(r.model, r.version, r.state) for r in (loaded, warm, gone)] == [
        ("own", "1.0.0", "loaded"),
        ("own", "1.0.0", "loaded"),
        ("own", "1.0.0", "unloaded"),
    ]
    assert all(set(report.workers) == names for report in (loaded, warm, gone))
    assert loaded.ms > 0
    assert sorted(len(batch) for batch in hop.family.batches) == [1, 1, 2, 2, 4, 4]
    assert hop.family.closed == ["own", "own"]


async def test_a_change_that_fails_somewhere_raises_what_it_said(hop: Hop) -> None:
    await hop.host()
    hop.family.load_errors = [OutOfMemory("needs 9 GiB", retry_after_s=3.0)]

    with pytest.raises(OutOfMemory, match="needs 9 GiB") as caught:
        await hop.handle.load(OWN, deadline=time.monotonic() + 30)
    assert caught.value.retry_after_s == 3.0


async def test_a_change_ends_at_the_deadline(hop: Hop) -> None:
    await hop.host()
    hop.family.loading.close()

    with pytest.raises(DeadlineExceeded):
        await hop.handle.load(OWN, deadline=time.monotonic() + 0.3)


async def test_a_host_that_stops_finishes_what_it_has(hop: Hop) -> None:
    host = await hop.host()
    hop.family.running.close()
    asked = asyncio.create_task(hop.texts(OWN, "a"))
    await until(hop.family.running.reached.is_set)

    stopping = asyncio.create_task(host.stop())
    await asyncio.sleep(0.1)  # it must not have let go by then
    hop.family.running.open()

    assert shown(await asked) == [row_of(b"a")]
    await hop.handle.close()
    await stopping
    assert not host.socket.exists()


async def test_a_handle_that_closes_answers_what_is_open(hop: Hop) -> None:
    await hop.host()
    hop.family.running.close()
    asked = asyncio.create_task(hop.texts(OWN, "a"))
    await until(hop.family.running.reached.is_set)

    await hop.handle.close()

    assert shown(await asked) == ["dependency_unavailable"]


async def test_a_socket_path_that_is_too_long_is_refused_with_the_way_out(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()

    with pytest.raises(OSError, match=r"longer than 103 bytes; set TMPDIR"):
        await Hop(directory, OWN).host()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_the_socket_of_a_dead_process_is_swept_and_a_live_ones_is_left(hop: Hop, dead_pid: int) -> None:
    dead, alive = (hop.directory / f"default-1-{pid}.sock" for pid in (dead_pid, os.getpid()))
    for path in (dead, alive):
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))  # bound, never listening: as a killed process leaves it

    await until(lambda: not dead.exists(), within_s=20)
    assert alive.exists()

    await hop.host(2)
    assert shown(await hop.texts(NOOP_SPEC, "a")) == direct(b"a")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(index: int, *, hang_s: float = 300.0, **config: Any) -> subprocess.Popen[bytes]:
        told = [str(tmp_path), str(index), json.dumps(config), str(hang_s)]
        command = [sys.executable, "-m", "tests.doors.runner_process", *told]
        started.append(start(command, log=tmp_path / f"runner-{index}.log", cwd=Path(__file__).parents[2]))
        return started[-1]

    yield begin
    for process in started:
        end(process, by=signal.SIGKILL)


async def test_work_of_a_killed_runner_is_done_by_the_other(
    hop: Hop, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first, _ = processes(1, delay_ms=100), processes(2, delay_ms=100)
    await until(lambda: len(hop.handle.workers()) == 2, within_s=60)
    await hop.handle.load(noop(), deadline=time.monotonic() + 60)
    await until(lambda: all(view.holdings[noop().key].state == "loaded" for view in hop.handle.workers()))
    texts = [f"text {i}" for i in range(40)]

    asking = asyncio.create_task(hop.texts(noop(), *texts, within_s=60))
    await until(lambda: all(len(link.open) == 20 for link in hop.fleet.links("default")))
    first.kill()
    first.wait()
    outcomes = await asking

    assert shown(outcomes) == direct(*(text.encode() for text in texts), spec=noop())
    assert [view.pid for view in hop.handle.workers()] != [first.pid]
    await until(lambda: not (hop.directory / f"default-1-{first.pid}.sock").exists())


async def test_a_model_that_nobody_holds_is_brought_in_by_one_worker_alone(hop: Hop) -> None:
    await hop.host(1)
    await hop.host(2)
    await until(lambda: len(hop.handle.workers()) == 2)

    await asyncio.gather(*(hop.texts(OWN, f"{i}") for i in range(6)))
    await hop.texts(OWN, "later")

    assert hop.family.loads == ["own"]


async def test_a_runner_that_dies_during_a_change_is_an_error_and_no_cancellation(
    hop: Hop, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = processes(1, delay_ms=60_000)
    await until(lambda: len(hop.handle.workers()) == 1, within_s=60)
    asked = asyncio.create_task(hop.handle.warmup(noop(), deadline=time.monotonic() + 60))
    await until(lambda: any(view.holdings for view in hop.handle.workers()))

    process.kill()

    with pytest.raises(DependencyUnavailable, match="went away meanwhile"):
        await asked


@contextlib.asynccontextmanager
async def kept_alive(begin: Callable[[], subprocess.Popen[bytes]]) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
    """A runner that is started again whenever it ends; all that were started."""
    started = [begin()]

    async def watch() -> None:
        while True:
            await until(lambda: started[-1].poll() is not None, within_s=600)
            started.append(begin())

    watching = asyncio.create_task(watch())
    try:
        yield started
    finally:
        watching.cancel()


async def test_an_item_that_ends_its_runners_is_answered_and_its_neighbours_are_computed(
    hop: Hop, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The first death accuses nobody, the second all that were computed, the third the one that was alone."""
    async with kept_alive(lambda: processes(1, crash_on="CRASH")) as started:
        await until(lambda: len(hop.handle.workers()) == 1, within_s=60)

        outcomes = await hop.texts(noop(), "a", "CRASH", *(f"text {i}" for i in range(10)), within_s=120)

        failed = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Failed)]
        assert failed == [1]
        assert "the runner ended 2 times while it computed this item" in str(outcomes[1])
        assert len([process for process in started if process.poll() is not None]) == 3


async def test_a_forward_that_hangs_fails_its_batch_and_the_runner_is_replaced(
    hop: Hop, processes: Callable[..., subprocess.Popen[bytes]]
) -> None:
    async with kept_alive(lambda: processes(1, hang_s=0.5, hang_on="HANG")) as started:
        await until(lambda: len(hop.handle.workers()) == 1, within_s=60)

        hung = await hop.texts(noop(), "HANG", within_s=60)
        assert shown(hung) == ["internal"]
        assert "has not come back" in str(hung[0])

        assert shown(await hop.texts(noop(), "a", within_s=60)) == direct(b"a", spec=noop())
        assert started[0].wait() == 75


async def test_how_far_an_item_is_crosses_only_when_asked(hop: Hop) -> None:
    await hop.host()
    steps: list[tuple[int, Step]] = []

    items: list[Content] = [Text("a"), Text("b")]
    await hop.inference.embed(
        NOOP_SPEC, "embed_text", items, call=call(), watch=lambda index, step: steps.append((index, step))
    )

    for index in (0, 1):
        stages = list(dict.fromkeys(step.stage for i, step in steps if i == index))
        assert stages[0] == "preprocessing"
        assert set(stages) <= {"preprocessing", "queued", "loading", "inference"}
    steps.clear()
    await hop.texts(NOOP_SPEC, "a")
    assert steps == []


async def test_bulk_work_crosses_as_such(hop: Hop) -> None:
    """Bulk waits while interactive work overtakes it, a counted number of times."""
    await hop.host()
    hop.family.running.close()
    first = asyncio.create_task(hop.texts(OWN, "first"))
    await until(hop.family.running.reached.is_set)
    bulk = replace(call(), priority="bulk")
    items: list[Content] = [Text(f"bulk {i}") for i in range(2)]
    later = asyncio.create_task(hop.inference.embed(OWN, "embed_text", items, call=bulk))
    await until(lambda: hop.hosts[0].batcher.queued() == 2)
    urgent = asyncio.create_task(hop.texts(OWN, *(f"urgent {i}" for i in range(4))))
    await until(lambda: hop.hosts[0].batcher.queued() == 6)
    hop.family.running.open()

    await asyncio.gather(first, later, urgent)
    assert hop.family.batches[1] == [b"urgent %d" % i for i in range(4)]


async def test_a_link_that_is_given_up_while_a_model_is_described_cancels_no_caller(hop: Hop) -> None:
    describing = Gate()

    class Slow(Family):
        def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
            describing.pass_through()
            return Family.describe(self, spec, folder)

    hop.family = Slow()
    await hop.host()
    describing.close()
    asked = asyncio.create_task(hop.texts(OWN, "a"))
    await until(describing.reached.is_set)

    await hop.fleet.links("default")[0]._channel.close()  # as a link does that has heard nothing for too long
    await until(lambda: not hop.handle.workers())
    describing.open()

    assert shown(await asked) == [row_of(b"a")]
