"""What a start refuses, and what it says; two groups side by side; the built Bento."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from modelmora.client import SyncClient
from tests.e2e.callers import call_for, kill_one_runner
from tests.e2e.serving import BENTOML, ROOT, SHARED, Server, environment, noop
from tests.support import wait_until

TWO_GROUPS = """
version: 1
groups: {default: {workers: 1, resources: {memory: 512MiB}}, second: {workers: 1, resources: {cpu: 1, memory: 1GiB}}}
models:
  - {name: one, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true}
  - {name: two, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", group: second,
     config: {dimension: 16}}
"""


def last_words(server: Server, within_s: float = 60.0) -> str:
    server.process.wait(within_s)
    return server.log.read_text()


def test_every_wrong_setting_is_named_at_once(start_server: Callable[..., Server]) -> None:
    wrong = {"MODELMORA_LIMITS_ITEMS": "many", "MODELMORA_LOG_LEVEL": "loud", "MODELMORA_HTPP_PORT": "1"}
    said = last_words(start_server(env=wrong))
    for part in ("MODELMORA_LIMITS_ITEMS", "many", "MODELMORA_LOG_LEVEL", "loud", "MODELMORA_HTTP_PORT"):
        assert part in said
    assert "Traceback" not in said


def test_a_wrong_registry_is_refused_with_file_and_line(start_server: Callable[..., Server]) -> None:
    said = last_words(start_server(registry=noop().replace("provider: noop", "provider: noob")))
    assert "ModelRegistry.yaml:5" in said
    assert "noop" in said
    assert "Traceback" not in said


def test_anonymous_beyond_this_machine_is_refused_by_setting(start_server: Callable[..., Server]) -> None:
    said = last_words(start_server(registry=noop(), env={"MODELMORA_HTTP_HOST": "0.0.0.0"}))
    assert "MODELMORA_ALLOW_ANONYMOUS" in said


def test_anonymous_beyond_this_machine_is_refused_by_option(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=noop(), command=(*BENTOML, "service:ModelMora", "--host", "0.0.0.0"))
    wait_until(lambda: answers(server), within_s=60, what="an answer")
    refused = httpx.get(f"{server.url}/v1/models")
    assert refused.status_code == 403
    assert "MODELMORA_ALLOW_ANONYMOUS" in refused.json()["detail"]
    assert httpx.get(f"{server.url}/readyz").status_code == 403


def answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/livez").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_taken_grpc_port_shows_in_readiness_and_heals(start_server: Callable[..., Server]) -> None:
    first = start_server("first", registry=noop())
    first.wait_ready()
    second = start_server("second", registry=noop(), env={"MODELMORA_GRPC_PORT": str(first.grpc_port)})
    wait_until(lambda: answers(second), within_s=60, what="an answer")
    wait_until(lambda: "MODELMORA_GRPC_PORT" in httpx.get(f"{second.url}/readyz").text, within_s=30, what="the reason")
    first.stop()
    second.wait_ready()


@pytest.mark.timeout(180)
def test_two_groups_with_different_models_run_side_by_side(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=TWO_GROUPS)
    server.wait_ready()
    assert len(server.workers("runner-default")) == len(server.workers("runner-second")) == 1
    for model, dimension in (("one", 8), ("two", 16)):
        answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["x"], "model": model}).json()
        assert answer["dimension"] == dimension
    where = httpx.get(f"{server.url}/api/v1/models/two").json()["workers"]
    assert [worker.split("-")[0] for worker in where] == ["second"]
    wait_until(lambda: budget(server) == 3 * 2**29, within_s=30, what="both groups' budgets")


def budget(server: Server) -> int:
    """Bytes for models, over all live workers."""
    return int(httpx.get(f"{server.url}/health").json()["memory"]["budget_bytes"])


def test_what_was_loaded_explicitly_is_loaded_on_a_new_runner_too(start_server: Callable[..., Server]) -> None:
    registry = noop() + ('  - {name: extra, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop"}\n')
    server = start_server(registry=registry)
    server.wait_ready()
    extra = f"{server.url}/api/v1/models/extra"
    assert httpx.get(extra).json()["state"] == "unloaded"
    assert httpx.post(f"{extra}/load", timeout=30).json()["state"] == "loaded"
    (runner,) = server.engines()
    runner.kill()
    wait_until(lambda: httpx.get(extra).json()["state"] != "loaded", within_s=30, what="the loss")
    wait_until(lambda: httpx.get(extra).json()["state"] == "loaded", within_s=60, what="the reload")


def test_several_api_workers_share_both_ports(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=noop(), env={"MODELMORA_API_WORKERS": "2", **SHARED})
    server.wait_ready()
    wait_until(lambda: len(server.workers("modelmora")) == 2, within_s=60, what="both API workers")
    expected = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["x"]}).json()["data"][0]["embedding"]
    for _ in range(20):
        with SyncClient(server.grpc_url) as client:
            assert client.generate_embedding(text="x").tolist() == pytest.approx(expected, abs=1e-6)
    for verb, state in (("unload", "unloaded"), ("load", "loaded"), ("load", "loaded"), ("unload", "unloaded")):
        answer = httpx.post(f"{server.url}/api/v1/models/noop/{verb}", timeout=30)
        assert answer.json()["state"] == state, answer.text
    assert httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["x"]}).status_code == 200


@pytest.fixture(scope="module")
def bento_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A BENTOML_HOME with the built Bento in it, and its tag."""
    folder = tmp_path_factory.mktemp("bento")
    (folder / "bentoml").mkdir()
    build = [sys.executable, "-m", "bentoml", "build", str(ROOT), "--output", "tag"]
    env = environment(folder, 3000, 50051, {})
    done = subprocess.run(build, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bentoml", done.stdout.strip().splitlines()[-1].removeprefix("__tag__:")


@pytest.fixture
def start_bento(
    start_server: Callable[..., Server], bento_home: tuple[Path, str], tmp_path: Path
) -> Callable[..., Server]:
    """Starts the built Bento the way its image does: from elsewhere, on all addresses, anonymous callers meant."""
    home, tag = bento_home

    def begin(**options: object) -> Server:
        env = {"BENTOML_HOME": str(home), "PYTHONPATH": "", "MODELMORA_ALLOW_ANONYMOUS": "true"}
        return start_server(command=(*BENTOML, tag, "--host", "0.0.0.0"), cwd=tmp_path, env=env, **options)

    return begin


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_built_bento_serves_the_bundled_model(start_bento: Callable[..., Server]) -> None:
    server = start_bento()
    server.wait_ready()
    texts = ["a red circle", "two blue squares"]
    answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": texts}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == len(texts)


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_the_built_bento_loses_nothing_when_its_runner_is_killed(start_bento: Callable[..., Server]) -> None:
    server = start_bento(registry=noop())
    server.wait_ready()
    answers, longest = await call_for(60.0, server, after_s=10.0, then=lambda: kill_one_runner(server))
    assert answers > 1000
    assert longest < 60.0


@pytest.mark.slow
def test_a_group_the_bento_was_built_without_is_refused_in_a_sentence(start_bento: Callable[..., Server]) -> None:
    said = last_words(start_bento(registry=TWO_GROUPS))
    assert "built without the group 'second'" in said
    assert "Traceback" not in said
