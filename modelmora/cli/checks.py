"""What `modelmora smoke` asks of a deployment: each check is one promise, by requests of a caller's own."""

from __future__ import annotations

import asyncio
import math
import os
import re
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from modelmora.cli.server import Server
from modelmora.client import Client, Embedding, Failed
from modelmora.client.address import Address
from modelmora.client.control import ModelInfo
from modelmora.errors import DependencyUnavailable, ImageNotFound, ModelMoraError

State = Literal["ok", "failed", "skipped"]

COLLECTION = "smoke"
TTL_S = 3_600
"""Of the picture that is kept, should nobody get to remove it."""
SIDE = 64
NEAR = 0.999
PAUSE_S = 0.5
_COUNTED = re.compile(r"^modelmora_requests_total\{[^}]*\} (\S+)$", re.MULTILINE)


class Skipped(Exception):
    """The deployment has nothing that the check could ask."""


class Broken(Exception):
    """What was promised is not so."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One check: what it found, in words, and what it took."""

    name: str
    state: State
    said: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the checks need to know: `wait_s` until the server is ready and the picture is indexed, at most; `model` to
    embed with, `load` to be loaded and unloaded (None: what the server has)."""

    server: Server
    wait_s: float
    model: str | None = None
    load: str | None = None


Check: TypeAlias = Callable[[Client, Asked], Awaitable[str]]


async def run(asked: Asked, tell: Callable[[Checked], None]) -> list[Checked]:
    """All of them, in order; where the server is not ready the others are not asked."""
    done: list[Checked] = []
    async with asked.server.client() as client:
        for name, check in CHECKS.items():
            done.append(await _checked(name, check, client, asked))
            tell(done[-1])
            if name == "ready" and done[-1].state == "failed":
                break
    return done


async def _checked(name: str, check: Check, client: Client, asked: Asked) -> Checked:
    started, state = time.monotonic(), "ok"
    try:
        said = await check(client, asked)
    except Skipped as why:
        state, said = "skipped", str(why)
    except ModelMoraError as error:
        state, said = "failed", f"{error.detail} [{error.code}]"
    except Exception as cause:
        state, said = "failed", str(cause) or type(cause).__name__
    return Checked(name, state, said, (time.monotonic() - started) * 1e3)  # type: ignore[arg-type] # one of three


async def _ready(client: Client, asked: Asked) -> str:
    until, why = time.monotonic() + asked.wait_s, "`modelmora health` says why"
    while True:
        try:
            if await client.ready():
                break
        except DependencyUnavailable as error:  # nobody listens yet
            why = error.detail
        if time.monotonic() >= until:
            raise Broken(f"not ready after {asked.wait_s:.0f} s: {why}")
        await asyncio.sleep(PAUSE_S)
    return f"version {(await client.version()).get('version', '?')}"


async def _health(client: Client, asked: Asked) -> str:
    report = await client.health()
    stores = report.get("dependencies") or {}
    away = [name for name, store in stores.items() if store.get("status") != "ok"]
    if away or report.get("status") != "ok":
        raise Broken(f"{report.get('status')}: {', '.join(away) or 'see `modelmora health`'}")
    return f"{len(stores)} stores answer"


async def _embed(client: Client, asked: Asked) -> str:
    picture = _picture()
    first, again = [await client.generate_embedding(picture, model=asked.model, truncate=True) for _ in range(2)]
    _check_unit(first)
    if first.cosine(again) < NEAR:
        raise Broken(f"the same picture twice: cosine {first.cosine(again):.4f}")
    return f"{first.key}, {first.dimension} components"


async def _other_face(client: Client, asked: Asked) -> str:
    if asked.server.url.startswith("http"):
        raise Skipped("only HTTP was named: --url grpc://host:port asks both")
    picture = _picture()
    by_grpc = await client.generate_embedding(picture, model=asked.model)
    url = asked.server.control_url or Address.parse(asked.server.url).control_url
    async with Server(url=url, control_url=url, timeout=asked.server.timeout).client() as other:
        by_http = await other.generate_embedding(picture, model=asked.model)
    if by_grpc.cosine(by_http) < NEAR:
        raise Broken(f"gRPC and HTTP answer differently: cosine {by_grpc.cosine(by_http):.4f}")
    return "gRPC and HTTP give the same vector"


async def _load_and_unload(client: Client, asked: Asked) -> str:
    """One into memory and out of it; one that is there out and in again: a request meanwhile waits for it."""
    models = await client.models()
    chosen = next((model for model in models if asked.load in (model.key, model.name)), None)
    if asked.load is None:
        chosen = _spare(models)
    if chosen is not None and chosen.state == "loaded":
        await _turn(client, chosen.key, "unloaded")
        return f"{chosen.key} again in {await _turn(client, chosen.key, 'loaded'):.0f} ms"
    ref = chosen.key if chosen is not None else asked.load or ""
    ms = await _turn(client, ref, "loaded")
    await _turn(client, ref, "unloaded")
    return f"{ref} in {ms:.0f} ms"


async def _turn(client: Client, ref: str, state: Literal["loaded", "unloaded"]) -> float:
    """In milliseconds, as the server took it."""
    turned = await (client.load(ref) if state == "loaded" else client.unload(ref))
    if turned.state != state:
        raise Broken(f"{ref} is {turned.state} after it was {state}")
    return turned.ms


async def _picture_round_trip(client: Client, asked: Asked) -> str:
    """Announced, taken in, found, removed: everything that a picture of a caller goes through."""
    (taken,) = await client.upload(
        [("smoke.png", _picture())], tags=["smoke"], collection=COLLECTION, ttl_s=TTL_S, wait=False
    )
    if isinstance(taken, Failed):
        raise taken.error
    id_ = taken.value.id
    try:
        kept = await client.images.settled(id_, timeout=asked.wait_s)
        if kept.state != "indexed":
            raise Broken(f"the picture is {kept.state}: {kept.why}")
        if not kept.ways:
            raise Skipped("pictures are kept, and no model indexes them here")
        found = await client.search(image=await client.images.content(id_), collection=COLLECTION)
        if id_ not in {hit.id for hit in found.hits}:
            raise Broken("it was indexed, and the search by itself does not find it")
    finally:
        await client.images.delete(id_)
    try:
        await client.images.get(id_)
    except ImageNotFound:
        return f"indexed by {', '.join(way.space for way in kept.ways)}, found, removed"
    raise Broken("it is still there after it was removed")


async def _metrics(client: Client, asked: Asked) -> str:
    counted = sum(float(count) for count in _COUNTED.findall(await client.metrics()))
    if not counted:
        raise Broken("/metrics has counted no request, after those of this run")
    return f"{counted:.0f} requests counted"


CHECKS: dict[str, Check] = {
    "ready": _ready,
    "health": _health,
    "embed": _embed,
    "both faces": _other_face,
    "load and unload": _load_and_unload,
    "picture by events": _picture_round_trip,
    "metrics": _metrics,
}


def _spare(models: Sequence[ModelInfo]) -> ModelInfo:
    """One whose files are certainly here: that nobody uses, or else one that is not asked for embeddings."""
    bundled = [model for model in models if model.source.startswith("bundled:")]
    for model in bundled:
        if model.state == "unloaded":
            return model
    for model in bundled:
        if model.state == "loaded" and model.type != "embedding":
            return model
    raise Skipped("no model that comes with the server is idle: --load NAME names one")


def _check_unit(embedding: Embedding) -> None:
    length = math.hypot(*embedding.tolist())
    if not abs(length - 1.0) < 1e-3:  # also what is not a number
        raise Broken(f"the vector's length is {length:.4f} instead of 1")


def _picture() -> bytes:
    """A PNG that nobody has sent before: no cache answers, and no kept picture is its double."""
    row = 1 + 3 * SIDE
    noise = bytearray(os.urandom(row * SIDE))
    noise[::row] = bytes(SIDE)  # each row begins with its filter: none
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(noise), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
