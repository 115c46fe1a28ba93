"""The container image: built for real, run as the server and as the subscriber."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from minio import Minio

from load.components.kafka import Kafka
from tests.contracts.conftest import postgres_server
from tests.contracts.object_store import served
from tests.e2e.containers import Container, Engine
from tests.pictures import drawing
from tests.support import components, required_in_ci, reserve_port, wait_until

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
IMAGE = "modelmora:latest"
MOST_BYTES = 2 * 10**9
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

Run = Callable[..., Container]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """With the image in it, as `make image` builds it."""
    for tool in ("buildah", "podman", "runc", "debootstrap"):
        if shutil.which(tool) is None:
            required_in_ci(f"{tool} is not here: make image-tools")
    made = Engine(tmp_path_factory.mktemp("images"))
    trusted = {"CA_BUNDLE": str(AUTHORITIES)} if AUTHORITIES.exists() else {}
    made.run("make", "image", within_s=1500, ENGINE="buildah", PYTHON_IMAGE="debootstrap", **trusted)
    return made


@pytest.fixture
def run(engine: Engine) -> Iterator[Run]:
    started: list[Container] = []

    def begin(env: dict[str, str], *command: str, volume: str = "") -> Container:
        name = f"modelmora-{os.getpid()}-{len(started)}"
        started.append(Container.start(engine, IMAGE, name, env, command, volume=volume))
        return started[-1]

    yield begin
    for container in started:
        container.remove()


def own_ports(**more: str) -> tuple[dict[str, str], str]:
    """For a server that listens on this machine alone, and its address."""
    port = reserve_port()
    env = {
        "MODELMORA_HTTP_HOST": "127.0.0.1",
        "MODELMORA_GRPC_HOST": "127.0.0.1",
        "MODELMORA_SUBSCRIBER_HOST": "127.0.0.1",
        "MODELMORA_HTTP_PORT": str(port),
        "MODELMORA_GRPC_PORT": str(reserve_port()),
    }
    return env | more, f"http://127.0.0.1:{port}"


def upload(url: str, name: str, data: bytes, **form: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/images", files=[("files", (name, data, "image/png"))], data=form, timeout=60)


def best(url: str, text: str) -> str:
    found = httpx.post(f"{url}/v1/search", json={"text": text, "limit": 1}, timeout=60).json()["results"]
    return str(found[0]["filename"])


def runners(container: Container) -> list[int]:
    return [pid for pid, command in container.processes() if "--service-name runner-default" in command]


def test_it_is_small_without_torch_and_not_roots(engine: Engine) -> None:
    told = engine.inspect(f"localhost/{IMAGE}")
    assert told["Size"] < MOST_BYTES
    config = told["Config"]
    assert config["User"] == "1034:1034"
    assert not [line for line in config["Env"] if line.startswith("BENTOML_CONTAINERIZED")]
    assert told["Healthcheck"]["Test"][0] == "CMD"


def test_it_refuses_the_whole_network_until_it_is_told_who_may(run: Run) -> None:
    container = run({"MODELMORA_HTTP_PORT": str(reserve_port()), "MODELMORA_GRPC_PORT": str(reserve_port())})
    wait_until(lambda: not container.state()["Running"], within_s=60, what="the refusal")
    assert container.state()["ExitCode"] == 1
    assert "MODELMORA_ALLOW_ANONYMOUS=true" in container.log()


def test_it_embeds_and_searches_and_a_killed_runner_comes_back(run: Run) -> None:
    env, url = own_ports()
    container = run(env)
    container.wait_ready(url)
    container.podman("healthcheck", "run", container.name)
    for colour in ("red", "green", "blue"):
        assert upload(url, f"{colour}.png", drawing(colour, "circle", size=120)).status_code == 201
    assert best(url, "a green circle") == "green.png"
    assert "Permission denied" in container.podman(
        "exec", container.name, "sh", "-c", "touch /opt/modelmora/src/x 2>&1 || true"
    )

    (runner,) = runners(container)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: runners(container) not in ([], [runner]), within_s=60, what="another runner")
    container.wait_ready(url)
    answer = httpx.post(
        f"{url}/v1/embed/image",
        files=[("files", ("a.png", drawing("red", "square", size=90), "image/png"))],
        timeout=60,
    )
    assert answer.json()["data"][0]["embedding"], answer.text
    assert not [command for _, command in container.processes() if "defunct" in command], "orphans are reaped"

    container.podman("stop", "-t", "60", container.name)
    assert container.state()["ExitCode"] == 0, container.log()[-2000:]
    assert "Completed async cleanup hook" in container.log()


def test_both_entrypoints_index_a_picture_over_real_servers(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("stores")
    with components():
        kafka = Kafka(tmp_path_factory.mktemp("kafka"))
    kafka.start()
    try:
        with postgres_server() as database, served(folder) as store:
            port = reserve_port()
            env, url = own_ports(
                MODELMORA_DATABASE_URL=f"postgresql+asyncpg://{database.url}/postgres",
                MODELMORA_OBJECTS_URL=f"s3+http://{store.access_key}:{store.secret_key}@{store.endpoint}/pictures",
                MODELMORA_EVENTS_URL=f"kafka://{kafka.brokers}",
                MODELMORA_SUBSCRIBER_PORT=str(port),
            )
            Minio(store.endpoint, store.access_key, store.secret_key, secure=False).make_bucket("pictures")
            env["MODELMORA_SUBSCRIBER_API"] = f"grpc://127.0.0.1:{env['MODELMORA_GRPC_PORT']}"
            shared = f"modelmora-{os.getpid()}"  # vectors in a folder: the subscriber finds their owner beside it
            server = run(env, volume=shared)
            server.wait_ready(url)
            subscriber = run(env, "python", "-m", "subscribers", volume=shared)
            subscriber.wait_ready(f"http://127.0.0.1:{port}")
            made = upload(url, "later.png", drawing("yellow", "square", size=120), wait="false")
            assert made.status_code == 202, made.text
            id_ = made.json()["data"][0]["id"]

            def indexed() -> bool:
                return bool(httpx.get(f"{url}/v1/images/{id_}").json()["state"] == "indexed")

            wait_until(indexed, within_s=60, what="the picture")
            assert best(url, "a yellow square") == "later.png"
            probe = ("python", "/opt/modelmora/src/deploy/image/healthy.py", "subscriber")
            subscriber.podman("exec", subscriber.name, *probe)
            subscriber.podman("stop", "-t", "60", subscriber.name)
            assert subscriber.state()["ExitCode"] == 0, subscriber.log()[-2000:]
    finally:
        kafka.stop()
