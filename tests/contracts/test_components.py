"""The servers that tests start: what they acknowledged is there after a kill, at the same address."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from minio import Minio

from load.components import kafka, seaweed
from load.components.kafka import Kafka
from load.components.postgres import Postgres
from load.components.processes import Absent, NotReady, end, listening, ready, reserve_port, start
from load.components.redis import Redis
from load.components.seaweed import Seaweed
from tests.support import components, running, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that PostgreSQL's user reaches."""
    folder = Path(tempfile.mkdtemp(prefix="modelmora-postgres-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_database_keeps_what_was_committed(open_folder: Path, how: str) -> None:
    with components():
        server = Postgres(open_folder)
    with running(server):
        url = f"postgresql://{server.url}/postgres"
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        getattr(server, how)()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.execute("SELECT 1")
        connection.terminate()
        server.start()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT number FROM kept") == 7
        await connection.close()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_store_keeps_what_was_put(tmp_path: Path, how: str) -> None:
    with components():
        server = Seaweed(tmp_path)
    with running(server):
        client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False)
        client.make_bucket("kept")
        client.put_object("kept", "object", io.BytesIO(b"content"), 7)
        getattr(server, how)()
        assert not listening(int(server.endpoint.rpartition(":")[2]))
        server.start()
        response = client.get_object("kept", "object")
        assert response.read() == b"content"
        response.close()


@pytest.mark.slow
async def test_a_broker_that_is_stopped_keeps_what_was_published(tmp_path: Path) -> None:
    """Killed ones: tests of what carries events."""
    with components():
        server = Kafka(tmp_path)
    with running(server):
        producer = AIOKafkaProducer(bootstrap_servers=server.brokers, acks="all")
        await producer.start()
        await producer.send_and_wait("kept", b"content", partition=0)
        await producer.stop()
        server.stop()
        assert not listening(server.port)
        server.start()
        consumer = AIOKafkaConsumer(bootstrap_servers=server.brokers)
        await consumer.start()
        partition = TopicPartition("kept", 0)
        assert (await consumer.end_offsets([partition])) == {partition: 1}
        await consumer.stop()


def test_a_cache_comes_back_at_its_address(tmp_path: Path) -> None:
    with components():
        server = Redis(tmp_path)
    with running(server):
        for leave in (server.kill, server.stop):
            assert listening(server.port)
            leave()
            assert not listening(server.port)
            server.start()


def test_what_is_absent_is_told_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "LIBRARIES", tmp_path)
    monkeypatch.setattr(seaweed, "WEED", tmp_path / "weed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for made in (Kafka, Redis, Seaweed, Postgres):
        with pytest.raises(Absent, match="make components"):
            made(tmp_path)


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(["sh", "-c", "echo no such option; exit 1"], log=log)
    with pytest.raises(NotReady, match=r"Something does not come up:\nno such option"):
        ready(lambda: False, process, what="Something", log=log, within_s=20)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux tells children of their parent's death")
def test_a_server_dies_with_whoever_started_it(tmp_path: Path) -> None:
    port, told = reserve_port(), tmp_path / "pid"
    serving = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    script = f"""
import pathlib, time
from load.components.processes import start
pathlib.Path({str(told)!r}).write_text(str(start({serving!r}, log=pathlib.Path({str(tmp_path / "log")!r})).pid))
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: listening(port), within_s=30, what="the server")
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not listening(port), within_s=10, what="its end")


def test_what_does_not_listen_to_a_polite_word_is_ended_by_force(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 60; done"], log=log)
    wait_until(lambda: b"up" in log.read_bytes(), within_s=20, what="the process")
    end(process, within_s=0.2)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
