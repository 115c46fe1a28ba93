"""Two servers over one PostgreSQL and one S3 store: what is registered with one is served by the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from minio import Minio

from tests.contracts.conftest import postgres_server
from tests.contracts.object_store import served
from tests.e2e.registering import register, turned
from tests.e2e.serving import SHARED, Server, noop, serve
from tests.e2e.test_registry_served import embed, vectors
from tests.support import wait_until


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Each with its own folder; the first has two API workers."""
    folder = tmp_path_factory.mktemp("shared")
    with postgres_server() as database, served(tmp_path_factory.mktemp("weed")) as store:
        keys = (store.access_key, store.secret_key)
        Minio(store.endpoint, *keys, secure=False).make_bucket("models")
        env = {
            "MODELMORA_DATABASE_URL": f"postgresql+asyncpg://{database.url}/postgres",
            "MODELMORA_OBJECTS_URL": f"s3+http://{keys[0]}:{keys[1]}@{store.endpoint}/models",
        }
        one = serve(folder / "one", registry=noop(), env={**env, "MODELMORA_API_WORKERS": "2", **SHARED})
        two = serve(folder / "two", registry=noop(), env=env)
        try:
            one.wait_ready()
            two.wait_ready()
            yield one, two
        finally:
            one.stop()
            two.stop()


@pytest.mark.timeout(240)
def test_what_is_registered_with_one_is_served_and_swapped_on_both(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    one, two = servers
    assert register(one.url, "shapes", "1.0.0")["state"] == "deployed"
    assert register(one.url, "shapes", "2.0.0", turned(tmp_path / "turned"))["state"] == "approved"
    wait_until(lambda: serves(two, "shapes@2.0.0"), within_s=10, what="the other server to follow")
    first, second = embed(two, "shapes"), embed(two, "shapes@2.0.0")
    assert (first["version"], second["version"]) == ("1.0.0", "2.0.0")
    np.testing.assert_allclose(vectors(second), -vectors(first), atol=1e-6)

    swapped = httpx.put(f"{two.url}/api/v1/models/shapes/current", json={"version": "2.0.0"}, timeout=120)
    assert swapped.status_code == 200, swapped.text
    answers = [embed(server, "shapes") for server in (one, two) for _ in range(6)]
    assert {answer["version"] for answer in answers} == {"2.0.0"}
    for server in servers:
        assert httpx.get(f"{server.url}/api/v1/audit/verify", timeout=30).json()["intact"] is True


def serves(server: Server, model: str) -> bool:
    answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["a"], "model": model}, timeout=60)
    return answer.status_code == 200
