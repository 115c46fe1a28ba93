"""A process of its own that holds so many callers against one server: a closed loop, one item a request."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from load.bench import answers, payloads, pictures
from load.bench.connection import ANSWER_S, Connection
from load.bench.plan import Face, Party
from load.bench.recorder import Recorder
from load.bench.rivals.speaking import requests_of
from load.bench.stats import percentile

HOST = "127.0.0.1"
BAD_WORD = "evil"
Send = Callable[[int], Awaitable[bool]]
"""Sends the request of that number; whether it was a good one, answered well; raises on an answer that is not due."""


class Refused(RuntimeError):
    """An answer whose status is not the one that is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the process is told: whom to call, how, and for how long; `pictures` None: texts are sent.

    `bad_every`: each so many-th request over HTTP is bad on purpose: a picture that breaks off, or a text with
    BAD_WORD in it, and must be answered with `bad_status`. `models`: each request names one of these instead of
    `model`, drawn by Zipf's law. `top_k`: so many classes of each picture are asked for instead of its embedding.
    `distinct`: so many different requests over HTTP, again and again; 0: none twice.
    `first`: the number of the first request; loads whose numbers differ ask for nothing twice.
    """

    party: Party
    face: Face
    port: int
    model: str
    callers: int
    lead_s: float
    window_s: float
    pictures: str | None
    bad_every: int = 0
    bad_status: int = 400
    models: tuple[str, ...] = ()
    top_k: int = 0
    distinct: int = 0
    first: int = 0

    def command(self) -> list[str]:
        """The command line that starts such a process."""
        return [sys.executable, "-m", "load.bench.callers", json.dumps(asdict(self))]

    def looks_into(self, number: int) -> bool:
        """Whether that request's answer is read: reading every one would cost more than sending the request."""
        return number < self.first + self.callers

    @property
    def longest_s(self) -> float:
        """After this the process hangs: the lead-in, the window, and twice the longest answer."""
        return self.lead_s + self.window_s + 300.0


async def run(load: Load, tell: Callable[[dict[str, Any]], None]) -> None:
    """Tells `open` and `close` as they happen, so that CPU can be read there, and at the end `result`."""
    async with AsyncExitStack() as stack:
        opened = _grpc_senders(load) if load.face == "grpc" else _http_senders(load)
        senders = await stack.enter_async_context(opened)
        recorder = Recorder(callers=load.callers, lead_s=load.lead_s, window_s=load.window_s, begun=time.perf_counter())
        numbers = itertools.count(load.first)
        await asyncio.gather(*(_caller(send, numbers, recorder, tell) for send in senders))
    tell({"event": "result", **_result(recorder)})


async def _caller(
    send: Send, numbers: Iterator[int], recorder: Recorder, tell: Callable[[dict[str, Any]], None]
) -> None:
    while not recorder.over:
        sent = time.perf_counter()
        try:
            good = await send(next(numbers))
        except Exception as bad:
            recorder.failure(f"{type(bad).__name__}: {bad}"[:500])
            await asyncio.sleep(0.05)  # a server that refuses at once must not be hammered
        else:
            if not good:
                recorder.refused += 1
            elif event := recorder.answer(sent, time.perf_counter()):
                tell({"event": event})


@asynccontextmanager
async def _http_senders(load: Load) -> AsyncIterator[list[Send]]:
    """One connection a caller."""
    payload = payload_for(load)
    read = answers.classes if load.top_k else answers.reader(load.party)
    connections = [Connection(HOST, load.port) for _ in range(load.callers)]

    def sender(connection: Connection) -> Send:
        async def send(number: int) -> bool:
            status, body = await connection.exchange(payload(number))
            good = not payloads.is_bad(number, load.bad_every)
            if status != (200 if good else load.bad_status):
                raise Refused(f"{status} {body[:300]!r}")
            if good and load.looks_into(number):
                read(body)
            return good

        return send

    try:
        yield [sender(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()


@asynccontextmanager
async def _grpc_senders(load: Load) -> AsyncIterator[list[Send]]:
    """One client for all callers, as an application would have."""
    from modelmora.client import Client, Retry  # noqa: PLC0415 (callers over HTTP start faster without it)

    images = pictures.read(Path(load.pictures)) if load.pictures else []
    url = f"grpc://{HOST}:{load.port}"
    async with Client(url, timeout=ANSWER_S, retry=Retry(retries=0)) as client:  # a retry would hide a failure

        async def send(number: int) -> bool:
            if images:
                jpeg = pictures.unique(images[number % len(images)], number)
                got = await client.generate_embedding(jpeg, model=load.model)
            else:
                got = await client.generate_embedding(text=f"text {number:08x}", model=load.model)
            if load.looks_into(number):
                answers.checked(np.asarray(got))
            return True

        yield [send] * load.callers


def payload_for(load: Load) -> payloads.Payload:
    """The requests of a load over HTTP."""
    images = pictures.read(Path(load.pictures)) if load.pictures is not None else []
    if load.models:
        return payloads.drawn([_payload(load, images, model) for model in load.models], load.models)
    good = _payload(load, images, load.model)
    if load.distinct:
        return payloads.repeated(good, load.distinct)
    if not load.bad_every:
        return good
    cut_short = [image[: len(image) // 2] for image in images]
    return payloads.mixed(good, _payload(load, cut_short, load.model, word=BAD_WORD), every=load.bad_every)


def _payload(load: Load, images: Sequence[bytes], model: str, *, word: str = "text") -> payloads.Payload:
    if load.pictures is None:
        return payloads.text_requests("/v1/embed/text", model, word=word)
    if load.party != "ours":
        return requests_of(load.party, images, model)
    if load.top_k:
        fields = {"model": model, "top_k": str(load.top_k)}
        return payloads.picture_uploads("/v1/classify", images, file_field="files", fields=fields)
    fields = {"model": model, "encoding_format": "base64"}
    return payloads.picture_uploads("/v1/embed/image", images, file_field="files", fields=fields)


def _result(recorder: Recorder) -> dict[str, Any]:
    complete = recorder.opened is not None and recorder.closed is not None
    wall_s = (recorder.closed or 0.0) - (recorder.opened or 0.0) if complete else 0.0
    latencies = recorder.latencies_s if complete else []
    shares = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
    return {
        "items": len(latencies),
        "wall_s": wall_s,
        "failed": recorder.failures,
        "refused": recorder.refused,
        "errors": recorder.errors,
        **{name: 1000 * percentile(latencies, share) if latencies else None for name, share in shares.items()},
    }


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(run(Load(**json.loads(sys.argv[1])), _tell))
