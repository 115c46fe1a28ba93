"""`/api/v1/dead-letters`: what could not be taken in is looked at, replayed, forgotten."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.core import Core
from modelmora.errors import DependencyUnavailable
from modelmora.ports import DeadLetter
from tests.fakes import World
from tests.galleries import Kit
from tests.pictures import SPACE, START, coming, step

PATH = "/api/v1/dead-letters"


@pytest.fixture
def kit(world: World) -> Kit:
    return Kit(world=world)


@pytest.fixture
def core(kit: Kit) -> Core:
    return Core(kit.application())


def unread(id_: str, **told: Any) -> DeadLetter:
    """What could not be read."""
    letter = DeadLetter(
        id=id_,
        topic="modelmora.images",
        key=b"\xff",
        value=b"<script>\x00",
        headers=(("h", b"\x00\xff"),),
        code="invalid_input",
        detail="no JSON",
        stage="reading",
        first_failed_at=START,
        failed_at=START,
    )
    return replace(letter, **told)


async def test_letters_are_listed_the_newest_first(kit: Kit, http: httpx.AsyncClient) -> None:
    letters = [unread(str(n), failed_at=START + timedelta(seconds=n), code="abc"[n % 3]) for n in range(5)]
    await kit.database.dead_letters.add(letters)

    first = (await http.get(PATH, params={"limit": 3})).json()
    rest = (await http.get(PATH, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    some = (await http.get(PATH, params={"code": "b"})).json()

    assert [[one["id"] for one in page["data"]] for page in (first, rest, some)] == [
        ["4", "3", "2"],
        ["1", "0"],
        ["4", "1"],
    ]
    assert rest["next_cursor"] is None
    assert first["data"][0] == {
        "id": "4",
        "topic": "modelmora.images",
        "image_id": "",
        "space": "",
        "code": "b",
        "detail": "no JSON",
        "stage": "reading",
        "attempts": 1,
        "first_failed_at": "2030-01-01T00:00:00.000000Z",
        "failed_at": "2030-01-01T00:00:04.000000Z",
        "replayed_at": None,
    }


async def test_one_is_shown_with_the_message_as_it_came(kit: Kit, http: httpx.AsyncClient) -> None:
    await kit.database.dead_letters.add([unread("1")])

    told = (await http.get(f"{PATH}/1")).json()

    assert (base64.b64decode(told["key"]), base64.b64decode(told["value"])) == (b"\xff", b"<script>\x00")
    assert told["headers"] == [{"name": "h", "value": base64.b64encode(b"\x00\xff").decode()}]


async def test_a_letter_that_nobody_wrote_is_not_found(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/1"), ("POST", "/1/replay"), ("DELETE", "/1")):
        answer = await http.request(method, PATH + path)
        assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")


async def test_what_was_given_up_is_replayed_once(kit: Kit, http: httpx.AsyncClient) -> None:
    await kit.database.pictures.register([coming("a")])
    await kit.database.pictures.finish([step("a", "dead", code="internal")])
    (letter,) = (await http.get(PATH)).json()["data"]
    assert (letter["image_id"], letter["space"]) == ("a", SPACE)

    answers = [await http.post(f"{PATH}/{letter['id']}/replay") for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"replayed": 1}, {"replayed": 0}]
    assert kit.database.states("a") == {SPACE: "received"}
    assert (await http.get(f"{PATH}/{letter['id']}")).json()["replayed_at"] is not None


@pytest.mark.parametrize(
    ("body", "replayed"),
    [({"ids": ["1", "3", "nobody"]}, 2), ({"code": "validation"}, 1), ({"all": True}, 3), ({"code": "none"}, 0)],
    ids=str,
)
async def test_several_are_replayed_at_once(
    kit: Kit, http: httpx.AsyncClient, body: dict[str, Any], replayed: int
) -> None:
    await kit.database.dead_letters.add([unread("1"), unread("2", code="validation"), unread("3")])

    answer = await http.post(f"{PATH}/replay", json=body)

    assert answer.json() == {"replayed": replayed}
    assert await kit.database.dead_letters.count() == 3 - replayed


@pytest.mark.parametrize(
    "body",
    [{}, {"all": False}, {"ids": []}, {"ids": ["1"], "all": True}, {"ids": [1]}, {"everything": True}, [], "all"],
    ids=str,
)
async def test_it_must_be_said_which(kit: Kit, http: httpx.AsyncClient, body: Any) -> None:
    await kit.database.dead_letters.add([unread("1")])

    answer = await http.post(f"{PATH}/replay", json=body)

    assert answer.status_code in (400, 422), answer.text
    assert await kit.database.dead_letters.count() == 1


async def test_one_is_forgotten(kit: Kit, http: httpx.AsyncClient) -> None:
    await kit.database.dead_letters.add([unread("1"), unread("2")])

    assert (await http.delete(f"{PATH}/1")).status_code == 204

    assert [one["id"] for one in (await http.get(PATH)).json()["data"]] == ["2"]


async def test_a_database_that_is_away_is_told_of(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.database.store.away = DependencyUnavailable("the database is away", retry_after_s=1.0)

    answer = await http.get(PATH)

    assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
