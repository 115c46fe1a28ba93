"""The promise of `RegisteredModels`, kept by every database."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.database import Database
from modelmora.domain.registry.entries import Model
from modelmora.domain.registry.pages import AuditQuery, ModelOrder, ModelQuery, Paging
from modelmora.errors import Conflict, ModelMoraError, ModelNotFound, PreconditionFailed, ValidationFailed
from tests.registered import a_change, a_model, a_version, later


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def actions(database: Database) -> list[str]:
    return [entry.change.action for entry in (await database.audit.entries(AuditQuery())).items]


async def names(database: Database, query: ModelQuery) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    while True:
        page = await database.models.find(query)
        found += [model.name for model in page.items]
        if page.next_cursor is None:
            return found
        assert len(page.items) == query.page.limit
        query = replace(query, page=replace(query.page, cursor=page.next_cursor))


async def test_a_model_is_found_by_its_name_and_by_its_id_as_it_was_registered(database: Database) -> None:
    model = a_model(tags=("b", "a"), owner="ann", description="of the garden — ünïcode")
    await database.models.add(model, change=a_change())
    for key in (model.name, model.id):
        assert await database.models.get(key) == replace(model, tags=("a", "b"))
    assert await actions(database) == ["register"]


async def test_a_model_that_is_not_there_is_named(database: Database) -> None:
    with pytest.raises(ModelNotFound, match="'birds'"):
        await database.models.get("birds")


async def test_a_name_is_taken_once_however_many_want_it(database: Database) -> None:
    async def registered(number: int) -> Model | ModelMoraError:
        model = replace(a_model(), id=str(number))
        try:
            await database.models.add(model, change=a_change())
        except Conflict as error:
            return error
        return model

    outcomes = await asyncio.gather(*map(registered, range(8)))
    assert [isinstance(one, Model) for one in outcomes].count(True) == 1
    assert await actions(database) == ["register"]  # those who came too late left nothing


async def test_a_change_replaces_what_may_change(database: Database) -> None:
    model = a_model(tags=("a",))
    await database.models.add(model, change=a_change())
    changed = replace(model, owner="bob", tags=("c",), current="1.0.0", changed_at=later(5), row=2)
    await database.models.change(changed, change=a_change("patch"))
    assert await database.models.get("birds") == changed
    assert await actions(database) == ["register", "patch"]


async def test_of_two_who_change_what_they_read_the_second_is_refused(database: Database) -> None:
    model = a_model(tags=("a",))
    await database.models.add(model, change=a_change())
    await database.models.change(replace(model, owner="bob", row=2), change=a_change("patch"))
    with pytest.raises(PreconditionFailed) as refused:
        await database.models.change(replace(model, tags=("lost",), row=2), change=a_change("patch"))
    assert (refused.value.found, refused.value.expected) == ("2", "1")
    with pytest.raises(PreconditionFailed):
        await database.models.remove(model, change=a_change("delete"))
    assert (await database.models.get("birds")).tags == ("a",)
    assert await actions(database) == ["register", "patch"]


async def test_a_removed_model_is_gone_with_its_tags_and_stays_in_the_audit(database: Database) -> None:
    model = a_model(tags=("a",))
    await database.models.add(model, change=a_change())
    await database.models.remove(model, change=a_change("delete"))
    for gone in (database.models.change(replace(model, row=2), change=a_change("patch")),
                 database.models.remove(model, change=a_change("delete"))):  # fmt: skip
        with pytest.raises(ModelNotFound):
            await gone
    assert await names(database, ModelQuery(tag="a")) == []
    assert await actions(database) == ["register", "delete"]
    await database.models.add(model, change=a_change())  # the name is free again


async def test_a_model_with_versions_stays(database: Database) -> None:
    model = a_model()
    await database.models.add(model, change=a_change())
    await database.versions.add(a_version(), change=a_change())
    with pytest.raises(Conflict, match="birds has versions"):
        await database.models.remove(model, change=a_change("delete"))
    assert await database.models.get("birds") == model
    assert await actions(database) == ["register", "register"]


async def fill(database: Database) -> None:
    for number, (name, owner, tags) in enumerate(
        [
            ("b", "ann", ("x",)),
            ("a-2", "bob", ("x", "y")),
            ("a-10", "ann", ()),
            ("c", "ann", ("y",)),
            ("a.1", "bob", ()),
        ]
    ):
        model = a_model(
            name, second=number, owner=owner, tags=tags, type_="tensor" if name == "c" else "classification"
        )
        await database.models.add(model, change=a_change())


@pytest.mark.parametrize("limit", [1, 2, 5, 500])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", ["a-10", "a-2", "a.1", "b", "c"]),
        ("created_at", ["b", "a-2", "a-10", "c", "a.1"]),
        ("changed_at", ["b", "a-2", "a-10", "c", "a.1"]),
    ],
)
async def test_every_model_is_on_one_page_in_the_order_asked_for(
    database: Database, order: ModelOrder, expected: list[str], descending: bool, limit: int
) -> None:
    await fill(database)
    query = ModelQuery(order=order, page=Paging(limit=limit, descending=descending))
    assert await names(database, query) == (expected[::-1] if descending else expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ModelQuery(type="tensor"), ["c"]),
        (ModelQuery(prefix="a-"), ["a-10", "a-2"]),
        (ModelQuery(prefix="a"), ["a-10", "a-2", "a.1"]),
        (ModelQuery(prefix="%"), []),
        (ModelQuery(tag="x"), ["a-2", "b"]),
        (ModelQuery(owner="ann", tag="y"), ["c"]),
        (ModelQuery(owner="nobody"), []),
    ],
)
async def test_filters_hold_together(database: Database, query: ModelQuery, expected: list[str]) -> None:
    await fill(database)
    assert await names(database, query) == expected


async def test_what_is_registered_between_two_pages_moves_nothing(database: Database) -> None:
    await fill(database)
    first = await database.models.find(ModelQuery(page=Paging(limit=2)))
    await database.models.add(a_model("a-0"), change=a_change())  # before the page that was read
    await database.models.add(a_model("bb"), change=a_change())
    later = await names(database, ModelQuery(page=Paging(limit=2, cursor=first.next_cursor)))
    assert later == ["a.1", "b", "bb", "c"]


def forged(*values: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


@pytest.mark.parametrize(
    ("order", "cursor"),
    [
        *(("name", cursor) for cursor in ("", "x", "é", "W10=", "WyJuYW1lIiwgZmFsc2UsIDEsICJ4Il0=", "bnVsbA==")),
        ("name", forged("name", False, "a\0b", "x")),
        ("name", base64.urlsafe_b64encode(b"[" * 20_000).decode()),
        ("name", base64.urlsafe_b64encode(b"[" * 3_000).decode()),
        ("name", forged("name", False, "a", "\ud83d")),
        ("created_at", forged("created_at", False, "0001-01-01T00:00:00+23:00", "x")),
        ("created_at", forged("created_at", False, "9999-12-31T23:59:59-23:00", "x")),
        ("created_at", forged("created_at", False, "2026-01-01T00:00:00", "x")),
        ("created_at", forged("created_at", False, 7, "x")),
    ],
)
async def test_a_cursor_that_is_none_is_refused(database: Database, order: ModelOrder, cursor: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await database.models.find(ModelQuery(order=order, page=Paging(cursor=cursor)))
    assert refused.value.field == "cursor"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, True, 1.5])
async def test_a_cursor_of_a_number_that_no_entry_has_is_refused(database: Database, number: float) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await database.audit.entries(AuditQuery(page=Paging(cursor=forged("seq", False, number, number))))
    assert refused.value.field == "cursor"


async def test_a_cursor_is_good_for_its_own_order_only(database: Database) -> None:
    await fill(database)
    cursor = (await database.models.find(ModelQuery(page=Paging(limit=1)))).next_cursor
    for other in (
        ModelQuery(order="created_at", page=Paging(cursor=cursor)),
        ModelQuery(page=Paging(cursor=cursor, descending=True)),
    ):
        with pytest.raises(ValidationFailed, match="in this order"):
            await database.models.find(other)
