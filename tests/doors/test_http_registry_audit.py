"""`/api/v1/audit`: who changed what, and whether that record is whole."""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
import pytest

from tests.doors.test_http_registry_models import MOMENT, add, at_fault
from tests.fakes import World

BASE = "/api/v1/audit"


async def test_an_entry_tells_who_did_what_and_how_it_was_before(http: httpx.AsyncClient) -> None:
    await add(http)
    await http.patch("/api/v1/models/birds", json={"owner": "bob"}, headers={"x-request-id": "the-request"})

    made, changed = (await http.get(BASE, params={"subject": "birds"})).json()["data"]

    assert (made["action"], made["before"], made["after"]["owner"]) == ("model.register", None, "anonymous")
    assert (changed["before"]["owner"], changed["after"]["owner"]) == ("anonymous", "bob")
    told = {name: value for name, value in changed.items() if name not in ("at", "digest", "before", "after")}
    assert told == {
        "seq": made["seq"] + 1,
        "actor": "anonymous",
        "action": "model.amend",
        "subject": "birds",
        "request_id": "the-request",
        "reason": "",
    }
    assert MOMENT.fullmatch(changed["at"])
    assert len(changed["digest"]) == 64


async def test_the_record_comes_in_pages_and_both_ways(http: httpx.AsyncClient) -> None:
    for name in ("ant", "bee", "cat"):
        await add(http, name)

    async def asked(**params: Any) -> tuple[list[str], str | None]:
        body = (await http.get(BASE, params={"actor": "anonymous", **params})).json()
        return [entry["subject"] for entry in body["data"]], body["next_cursor"]

    first, cursor = await asked(limit=2)
    assert (first, await asked(cursor=cursor)) == (["ant", "bee"], (["cat"], None))
    assert (await asked(order="-seq", limit=1))[0] == ["cat"]
    assert await asked(action="model.remove") == ([], None)


@pytest.mark.parametrize(
    ("field", "given"),
    [("order", "at"), ("limit", "501"), ("cursor", "x"), ("subject", "\0"), ("who", "ann"), ("after", "1")],
)
async def test_a_wrong_parameter_is_named(field: str, given: str, http: httpx.AsyncClient) -> None:
    assert at_fault(await http.get(BASE, params={field: given})) == (422, "validation", field)


async def test_a_record_that_nobody_touched_is_intact(http: httpx.AsyncClient) -> None:
    before = (await http.get(f"{BASE}/verify")).json()
    await add(http)

    after = (await http.get(f"{BASE}/verify")).json()

    assert (before["intact"], after) == (True, {"intact": True, "entries": before["entries"] + 1})


async def test_a_record_that_somebody_changed_says_where(world: World, http: httpx.AsyncClient) -> None:
    await add(http)
    [entry] = (await http.get(BASE, params={"subject": "birds"})).json()["data"]
    await world.kept.close()
    with sqlite3.connect(world.kept.file) as database:
        guarded = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%UPDATE ON audit%'"
        [(trigger,)] = database.execute(guarded)
        database.execute(f"DROP TRIGGER {trigger}")
        database.execute("UPDATE audit SET actor = 'nobody' WHERE seq = ?", (entry["seq"],))
    database.close()

    told = (await http.get(f"{BASE}/verify")).json()

    assert told == {
        "intact": False,
        "entries": entry["seq"],
        "broken": {"seq": entry["seq"], "why": "changed"},
    }
