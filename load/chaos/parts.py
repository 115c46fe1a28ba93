"""What is killed: real servers, an API worker with its runners, a subscriber; each comes back on its own ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import httpx
import psutil
from minio import Minio

from load.components.kafka import Kafka
from load.components.postgres import Postgres
from load.components.processes import NotReady, end, reserve_port, start
from load.components.redis import Redis
from load.components.seaweed import Seaweed

ROOT = Path(__file__).resolve().parents[2]
BUCKET, INCOMING = "pictures", "incoming"
READY_S = 180.0


class Part(Protocol):
    """Something that can be killed and comes back."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


class Process:
    """A process of ours with all that it starts; `probe` is the URL that says when it is ready."""

    def __init__(self, command: list[str], *, log: Path, env: Mapping[str, str], probe: str) -> None:
        self._command, self._log, self._env, self._probe = command, log, env, probe
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Not waited for: what is brought back has to find the others by itself."""
        self._process = start(self._command, log=self._log, cwd=ROOT, env=dict(self._env))

    def wait_ready(self) -> None:
        """Raises NotReady."""
        deadline = time.monotonic() + READY_S
        while not self.ready():
            if time.monotonic() > deadline:
                raise NotReady(f"{' '.join(self._command)}: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self._probe, timeout=2).status_code == 200
        return False

    def stop(self) -> None:
        if self._process is not None:
            family = self._family()
            end(self._process, within_s=40.0)
            _kill(psutil.wait_procs(family, timeout=5.0)[1])

    def tree(self) -> psutil.Process:
        """The root of a running one's process tree, for CPU accounting."""
        if self._process is None:
            raise NotReady(f"{' '.join(self._command)} was not started")
        return psutil.Process(self._process.pid)

    def kill(self) -> None:
        """Without a word, and everything that it started."""
        if self._process is not None:
            _kill(self._family())
            end(self._process, by=signal.SIGKILL)

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Stack:
    """Kafka, S3, PostgreSQL, Redis, an API worker whose vectors lie in a folder, a subscriber."""

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Nothing runs yet; `env` are settings that differ from ours. Raises Absent."""
        places = {name: folder / name for name in ("kafka", "objects", "database", "redis", "api")}
        for place in places.values():
            place.mkdir(parents=True)
        folder.chmod(0o755)
        self.folder = folder
        self.kafka, self.objects = Kafka(places["kafka"]), Seaweed(places["objects"])
        self.database, self.redis = Postgres(places["database"]), Redis(places["redis"])
        self.http, self.grpc, self.health = reserve_port(), reserve_port(), reserve_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.vectors = places["api"] / "data" / "vectors"
        env = {**self._environment(places["api"]), **(env or {})}
        serve = [sys.executable, "-m", "bentoml", "serve", "service:ModelMora"]
        self.api = Process(serve, log=folder / "api.log", env=env, probe=f"{self.url}/readyz")
        probe = f"http://127.0.0.1:{self.health}/readyz"
        subscribe = [sys.executable, "-m", "subscribers"]
        self.subscriber = Process(subscribe, log=folder / "subscriber.log", env=env, probe=probe)

    @property
    def database_url(self) -> str:
        return f"postgresql://{self.database.url}/postgres"

    @property
    def breakable(self) -> dict[str, Part]:
        """In the order in which they are killed."""
        return {
            "broker": self.kafka,
            "object store": self.objects,
            "database": self.database,
            "Redis": self.redis,
            "API": self.api,
            "subscriber": self.subscriber,
        }

    def client(self) -> Minio:
        store = self.objects
        return Minio(store.endpoint, store.access_key, store.secret_key, secure=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything up and ready; all of it ends with the block."""
        parts = list(self.breakable.values())
        try:
            for part in parts[:4]:
                part.start()
            for bucket in (BUCKET, INCOMING):
                self.client().make_bucket(bucket)
            self.api.start()
            self.api.wait_ready()
            self.subscriber.start()
            self.subscriber.wait_ready()
            yield
        finally:
            for part in reversed(parts):
                part.stop()

    def _environment(self, home: Path) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODELMORA_", "BENTOML_", "PROMETHEUS_"))}
        (home / "bentoml").mkdir()
        keys = f"{self.objects.access_key}:{self.objects.secret_key}"
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "BENTOML_HOME": str(home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "MODELMORA_DATA_DIR": str(home / "data"),
            "MODELMORA_HTTP_PORT": str(self.http),
            "MODELMORA_GRPC_PORT": str(self.grpc),
            "MODELMORA_DATABASE_URL": f"postgresql+asyncpg://{self.database.url}/postgres",
            "MODELMORA_OBJECTS_URL": f"s3+http://{keys}@{self.objects.endpoint}/{BUCKET}",
            "MODELMORA_EVENTS_URL": f"kafka://{self.kafka.brokers}",
            "MODELMORA_CACHE_URL": self.redis.url,
            "MODELMORA_INGEST_BUCKETS": INCOMING,
            "MODELMORA_INGEST_STUCK_S": "20",
            "MODELMORA_SUBSCRIBER_PORT": str(self.health),
            "MODELMORA_SUBSCRIBER_API": f"grpc://127.0.0.1:{self.grpc}",
        }
