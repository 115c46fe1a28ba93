"""Pictures in the store and the events that announce them, each sent until it is acknowledged, by a stranger."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from minio import Minio
from PIL import Image, ImageDraw

from load.chaos.parts import INCOMING
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.ids import new_id

TOPIC = "modelmora.images"
SPOILT = 100
"""One in so many is no picture: it has to end in the dead letters."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A picture that lies in the store; `good`: it is one."""

    picture: Picture
    good: bool


def lay_out(client: Minio, count: int, *, seed: int = 7) -> list[Announced]:
    """So many different drawings in the store of those who announce."""
    rng, made = random.Random(seed), []
    for number in range(count):
        good = number % SPOILT != SPOILT - 1
        data = drawing(rng, number) if good else f"this is no picture: {number}".encode()
        name = f"{number:06}.png"
        client.put_object(INCOMING, name, io.BytesIO(data), len(data))
        now = datetime.now(UTC)
        picture = Picture(
            id=new_id(),
            sha256=hashlib.sha256(data).hexdigest(),
            object=f"s3://{INCOMING}/{name}",
            content_type="image/png",
            bytes=len(data),
            facts=Facts(filename=name),
            created_at=now,
            changed_at=now,
        )
        made.append(Announced(picture, good))
    return made


def drawing(rng: random.Random, number: int) -> bytes:
    """No two are alike: the number is in the pixels."""
    canvas = Image.new("RGB", (96, 96), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    colour = tuple(rng.randrange(200) for _ in range(3))
    x, y, size = rng.randrange(40), rng.randrange(40), rng.randrange(20, 50)
    draw.ellipse((x, y, x + size, y + size), fill=colour)
    canvas.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65536))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


async def announce(brokers: str, announced: Sequence[Announced], *, within_s: float) -> int:
    """One after the other, evenly over the time; how often an event had to be sent again. It ends when the broker has
    acknowledged the last one, whatever becomes of the broker meanwhile."""
    loop, again = asyncio.get_running_loop(), 0
    began = loop.time()
    producer: AIOKafkaProducer | None = None
    for number, one in enumerate(announced):
        await asyncio.sleep(max(0.0, began + within_s * number / len(announced) - loop.time()))
        event = registered(one.picture, source="/chaos", id_=new_id(), time=datetime.now(UTC), topic=TOPIC)
        key, value, headers = to_kept_parts(event)
        while True:
            try:
                producer = producer or await _connected(brokers)
                async with asyncio.timeout(10):
                    await producer.send_and_wait(TOPIC, value, key=key, headers=list(headers))
                break
            except (KafkaError, OSError, TimeoutError):
                again += 1
                await _dropped(producer)
                producer = None
                await asyncio.sleep(0.5)
    await _dropped(producer)
    return again


async def _connected(brokers: str) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, acks="all", enable_idempotence=True, request_timeout_ms=5_000
    )
    try:
        async with asyncio.timeout(10):
            await producer.start()
    except BaseException:
        await _dropped(producer)
        raise
    return producer


async def _dropped(producer: AIOKafkaProducer | None) -> None:
    if producer is not None:
        try:
            async with asyncio.timeout(5):
                await producer.stop()
        except (KafkaError, OSError, TimeoutError):
            return
