"""A registry of ten thousand models with five versions each answers as a small one does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from statistics import quantiles
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from adapters.database import Database
from adapters.database.engine import Transactions, create_engine
from adapters.database.models import _row as model_row
from adapters.database.tables import model_tags, models, version_files, versions
from adapters.database.versions import _row as version_row
from api.core import Core
from api.http.app import create_app
from modelmora.domain.registry.pages import ModelQuery, Paging, VersionQuery
from modelmora.domain.registry.semver import SemVer, rank
from tests.fakes import World
from tests.registered import a_model, a_version
from tests.registries import RealRegistry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODELS, VERSIONS, STRIDE = 10_000, 5, 2_000
LONGEST_MS = 50.0
ASKED = 300


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    await fill(database_url)
    yield database
    await database.close()


async def fill(url: str) -> None:
    """Straight into the tables: registering is measured elsewhere."""
    engine = create_engine(url)
    for start in range(0, MODELS, STRIDE):
        made = [a_model(f"m-{number}", second=number) for number in range(start, start + STRIDE)]
        of = [
            a_version(f"1.{minor}.0", model=model.name, second=5 * number + minor)
            for number, model in enumerate(made, start)
            for minor in range(VERSIONS)
        ]
        fixed = [
            {"id": one.id, "model": one.model, "version": one.version, "rank": rank(SemVer(one.version))} for one in of
        ]
        async with Transactions(engine).write() as connection:
            await connection.execute(insert(models), [dict(model_row(one)) for one in made])
            tagged = [{"model_id": one.id, "tag": f"t-{number % 50}"} for number, one in enumerate(made, start)]
            await connection.execute(insert(model_tags), tagged)
            rows = [
                {**keys, **version_row(one), "created_at": one.created_at} for keys, one in zip(fixed, of, strict=True)
            ]
            await connection.execute(insert(versions), rows)
            files = [{"version_id": one.id, "sha256": sha256} for one in of for sha256 in one.objects]
            await connection.execute(insert(version_files), files)
    await engine.dispose()


async def p99_ms(ask: Callable[[int], Awaitable[object]], percent: int = 99) -> float:
    """The least of up to three measurements: what else runs on the machine can only slow them down."""
    least = await once_ms(ask, percent)
    for _ in range(2):
        if least > LONGEST_MS:
            least = min(least, await once_ms(ask, percent))
    return least


async def median_ms(ask: Callable[[int], Awaitable[object]]) -> float:
    """What a question takes that nothing else on the machine holds up."""
    return await p99_ms(ask, percent=50)


async def once_ms(ask: Callable[[int], Awaitable[object]], percent: int) -> float:
    """That percentile of `ASKED` questions, one after the other."""
    times: list[float] = []
    for number in range(ASKED):
        begun = time.perf_counter()
        await ask(number)
        times.append((time.perf_counter() - begun) * 1e3)
    return quantiles(times, n=100)[percent - 1]


@pytest.fixture
async def http(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The whole HTTP application over it, without the network between."""
    world = World()
    world._kept = RealRegistry(world.catalogue, world.host, world.desires, database=database)
    app = create_app(Core(application=world.application()), max_body_bytes=2**20)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_over_http_lists_and_gets_take_less_than_50_ms(
    http: httpx.AsyncClient, record_property: Callable[[str, object], None]
) -> None:
    """A plan that reads a table from end to end takes longer than that for every question, on any machine."""
    await assert_over_http(http, median_ms, record_property)


@pytest.mark.nightly  # a busy machine holds one question in a hundred up for longer
async def test_over_http_ninety_nine_in_a_hundred_take_less_than_50_ms(
    http: httpx.AsyncClient, record_property: Callable[[str, object], None]
) -> None:
    await assert_over_http(http, p99_ms, record_property)


async def assert_over_http(
    http: httpx.AsyncClient,
    measure: Callable[[Callable[[int], Awaitable[object]]], Awaitable[float]],
    record_property: Callable[[str, object], None],
) -> None:
    cursors: list[str] = [""]
    while len(cursors) < 100:
        cursors.append((await asked(http, "/api/v1/models", limit=100, cursor=cursors[-1]))["next_cursor"])
    found = {
        "get a model": await measure(lambda n: asked(http, f"/api/v1/models/m-{n * 31 % MODELS}")),
        "get a version": await measure(lambda n: asked(http, f"/api/v1/models/m-{n * 31 % MODELS}/versions/1.3.0")),
        "list models": await measure(lambda n: asked(http, "/api/v1/models", limit=50, cursor=cursors[n % 100])),
        "list models of a tag": await measure(lambda n: asked(http, "/api/v1/models", limit=50, tag="t-7")),
        "list a model's versions": await measure(
            lambda n: asked(http, f"/api/v1/models/m-{n * 31 % MODELS}/versions", order="version")
        ),
    }
    for name, ms in found.items():
        record_property(name, round(ms, 1))
    assert {name: ms for name, ms in found.items() if ms > LONGEST_MS} == {}, found


async def asked(http: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await http.get(path, params={name: value for name, value in query.items() if value != ""})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.nightly  # CI asks the same through HTTP
async def test_list_and_get_take_less_than_50_ms(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    cursors: list[str | None] = [None]
    while len(cursors) < 100:
        page = await database.models.find(ModelQuery(page=Paging(limit=100, cursor=cursors[-1])))
        cursors.append(page.next_cursor)

    def page_of(number: int) -> Paging:
        return Paging(limit=50, cursor=cursors[number % len(cursors)])

    by_tag = ModelQuery(tag="t-7", page=Paging(limit=50))
    latest = VersionQuery(page=Paging(limit=50, descending=True))
    found = {
        "get a model": await p99_ms(lambda n: database.models.get(f"m-{n * 31 % MODELS}")),
        "get a model by its id": await p99_ms(lambda n: database.models.get(f"id-m-{n * 31 % MODELS}")),
        "get a version": await p99_ms(lambda n: database.versions.get(f"m-{n * 31 % MODELS}", "1.3.0")),
        "list models": await p99_ms(lambda n: database.models.find(ModelQuery(page=page_of(n)))),
        "list models of a tag": await p99_ms(lambda n: database.models.find(by_tag)),
        "list the latest models": await p99_ms(
            lambda n: database.models.find(replace(by_tag, tag=None, order="created_at"))
        ),
        "list a model's versions": await p99_ms(
            lambda n: database.versions.find(VersionQuery(model=f"m-{n * 31 % MODELS}", order="version"))
        ),
        "list the latest versions": await p99_ms(lambda n: database.versions.find(latest)),
        "list what is declared": await p99_ms(lambda n: database.versions.find(VersionQuery(declared=True))),
    }
    for name, ms in found.items():
        record_property(name, round(ms, 1))
    assert {name: ms for name, ms in found.items() if ms > LONGEST_MS} == {}, found
