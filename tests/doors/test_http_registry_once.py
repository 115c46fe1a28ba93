"""`Idempotency-Key`: what makes an entry is done once, and answered the same every time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from modelmora.domain.registry.entries import Model
from tests.doors.test_http_registry_models import add, at_fault
from tests.doors.test_http_registry_versions import sent, version
from tests.fakes import World

MODELS, VERSIONS = "/api/v1/models", "/api/v1/models/birds/versions"
BIRDS = {"name": "birds", "type": "classification"}


async def post(http: httpx.AsyncClient, body: Any, key: str = "k-1", path: str = MODELS) -> httpx.Response:
    return await http.post(path, json=body, headers={"idempotency-key": key})


def said(answer: httpx.Response) -> tuple[int, bytes, str, str]:
    return answer.status_code, answer.content, answer.headers["location"], answer.headers["etag"]


async def test_a_model_is_made_once_and_told_twice(http: httpx.AsyncClient) -> None:
    first, second = await post(http, BIRDS), await post(http, BIRDS)

    assert first.status_code == 201
    assert said(first) == said(second)
    assert ("idempotent-replay" in first.headers, second.headers["idempotent-replay"]) == (False, "true")


async def test_a_version_is_made_once_and_told_as_it_was_then(world: World, http: httpx.AsyncClient) -> None:
    await add(http)
    await sent(http)
    first = await post(http, version(), path=VERSIONS)
    await http.post(f"{VERSIONS}/1.0.0/moves", json={"move": "archive"})

    second = await post(http, version(), path=VERSIONS)

    assert said(first) == said(second)
    assert (second.json()["state"], second.json()["row"]) == ("registered", 1)
    entries = (await http.get("/api/v1/audit", params={"action": "version.register", "actor": "anonymous"})).json()
    assert len(entries["data"]) == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [({**BIRDS, "owner": "bob"}, MODELS), (version(), VERSIONS)],
    ids=["another body", "another path"],
)
async def test_a_key_is_for_one_request(body: Any, path: str, http: httpx.AsyncClient) -> None:
    await post(http, BIRDS)
    await sent(http)

    answer = await post(http, body, path=path)

    assert at_fault(answer) == (422, "validation", "idempotency-key")


async def test_what_was_made_by_a_process_that_could_not_say_so_is_told_all_the_same(
    world: World, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = world.kept.database.idempotency
    for key, body, path in (("k-m", BIRDS, MODELS), ("k-v", version(), VERSIONS)):
        await sent(http)
        with monkeypatch.context() as patch:  # it was killed then, and its claim has ended
            patch.setattr(keys, "keep", lambda key, *, holder, answer: keys.forget(key, holder=holder))
            first = await post(http, body, key, path)
        second = await post(http, body, key, path)
        assert said(first) == said(second)
        assert (await post(http, body, key, path)).headers["idempotent-replay"] == "true"
        assert (await post(http, body, f"{key}-2", path)).status_code == 409

    await http.delete(f"{VERSIONS}/1.0.0")
    assert (await post(http, version(), "k-3", path=VERSIONS)).status_code == 409


async def test_what_failed_may_be_tried_again_with_its_key(http: httpx.AsyncClient) -> None:
    await add(http)
    refused = await post(http, version(), path=VERSIONS)
    await sent(http)

    answer = await post(http, version(), path=VERSIONS)

    assert (refused.status_code, answer.status_code) == (422, 201)
    assert "idempotent-replay" not in answer.headers


async def test_who_comes_while_it_is_being_done_is_told_so(
    world: World, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, hold, real = asyncio.Event(), asyncio.Event(), world.kept.models.add

    async def slow(*args: Any, **more: Any) -> Model:
        entered.set()
        await hold.wait()
        return await real(*args, **more)

    monkeypatch.setattr(world.kept.models, "add", slow)
    first = asyncio.create_task(post(http, BIRDS))
    await entered.wait()

    second = await post(http, BIRDS)
    hold.set()

    assert (second.status_code, second.json()["code"]) == (409, "conflict")
    assert said(await first) == said(await post(http, BIRDS))


async def test_many_at_once_with_one_key_make_one(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(post(http, BIRDS) for _ in range(6)))

    made = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in made}) == 1
    assert (await http.get(f"{MODELS}/birds")).json()["row"] == 1


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"k\xe4se", b"a\tb", b"\x7f"])
async def test_what_is_no_key_is_refused(key: bytes, http: httpx.AsyncClient) -> None:
    answer = await http.post(MODELS, json=BIRDS, headers=[(b"idempotency-key", key)])

    assert at_fault(answer) == (422, "validation", "idempotency-key")
    assert (await http.get(f"{MODELS}/birds")).status_code == 404


async def test_without_a_key_the_second_is_refused(http: httpx.AsyncClient) -> None:
    await add(http)

    assert (await http.post(MODELS, json=BIRDS)).status_code == 409
