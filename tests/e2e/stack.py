"""An API worker and a subscriber over real servers, and a producer of events that is not us."""

from __future__ import annotations

import contextlib
import io
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from minio import Minio

from load.components.kafka import Kafka
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.ids import new_id
from tests.collector import Collector
from tests.e2e.serving import ROOT, environment, serve
from tests.pictures import digest, picture
from tests.support import reserve_port, start


class Stack:
    """An API worker and a subscriber over PostgreSQL, S3, Kafka, and the API worker's vectors."""

    def __init__(self, folder: Path, database: str, store: Any, kafka: Kafka, collector: Collector) -> None:
        self.folder, self.store, self.kafka, self.collector = folder, store, kafka, collector
        self.env = {
            "MODELMORA_DATABASE_URL": f"postgresql+asyncpg://{database}/postgres",
            "MODELMORA_OBJECTS_URL": f"s3+http://{store.access_key}:{store.secret_key}@{store.endpoint}/pictures",
            "MODELMORA_EVENTS_URL": f"kafka://{kafka.brokers}",
            "MODELMORA_INGEST_BUCKETS": "incoming",
            "MODELMORA_TRACING_URL": collector.url,
            "MODELMORA_TRACING_RATIO": "0",
        }
        self.client = Minio(store.endpoint, store.access_key, store.secret_key, secure=False)
        for bucket in ("pictures", "incoming"):
            self.client.make_bucket(bucket)
        self.server = serve(folder / "api", env=self.env)
        self.port = reserve_port()
        self.subscriber: Any = None

    def subscribe(self) -> None:
        variables = environment(self.folder / "api", self.server.http_port, self.server.grpc_port, self.env)
        variables |= {
            "MODELMORA_SUBSCRIBER_PORT": str(self.port),
            "MODELMORA_SUBSCRIBER_API": self.server.grpc_url,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "subscribers"]
        self.subscriber = start(command, log=self.folder / "subscriber.log", cwd=ROOT, env=variables)

    def probe(self, path: str) -> httpx.Response | None:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        return None

    def ready(self) -> bool:
        assert self.subscriber.poll() is None, (self.folder / "subscriber.log").read_text()[-3000:]
        answer = self.probe("/readyz")
        return answer is not None and answer.status_code == 200

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object("incoming", name, io.BytesIO(data), len(data))
        return f"s3://incoming/{name}"


async def announce(stack: Stack, *named: tuple[str, bytes]) -> list[str]:
    """As a producer who is not us does it."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka.brokers)
    await producer.start()
    ids = []
    try:
        for name, data in named:
            now, id_ = datetime.now(UTC), new_id()
            record = picture(id_, object=stack.put(name, data), sha256=digest(data), filename=name, created_at=now)
            event = registered(record, source="/camera", id_=new_id(), time=now, topic="modelmora.images")
            key, value, headers = to_kept_parts(event)
            await producer.send_and_wait("modelmora.images", value, key=key, headers=list(headers))
            ids.append(id_)
    finally:
        await producer.stop()
    return ids
