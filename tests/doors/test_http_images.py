"""`/v1/images`: pictures are uploaded, looked up, shown and removed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from api.core import Core
from api.http.app import create_app
from modelmora.domain.pictures.spaces import Space
from modelmora.errors import DependencyUnavailable, ImageNotFound, InvalidInput
from tests.doors.conftest import MAX_BODY
from tests.doors.conversation import END, Conversation, field_part, file_part
from tests.doors.test_http_embed import Part, picture
from tests.fakes import CLIP, World, until
from tests.galleries import Kit
from tests.pictures import digest

PATH = "/v1/images"
AWAY = DependencyUnavailable("nobody is there", retry_after_s=1.0)


@pytest.fixture
def kit(world: World) -> Kit:
    return Kit(world=world)


@pytest.fixture
def core(kit: Kit) -> Core:
    return Core(kit.application())


async def upload(http: httpx.AsyncClient, *given: Part, path: str = PATH, **fields: Any) -> httpx.Response:
    return await http.post(path, files=list(given), data=fields)


def only(answer: httpx.Response, status: int = 201) -> dict[str, Any]:
    """The row of an answer about one picture."""
    assert answer.status_code == status, answer.text
    (row,) = answer.json()["data"]
    told: dict[str, Any] = row
    return told


async def test_one_picture_is_answered_with_all_that_is_known_of_it(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a", "cat.png")))

    assert row == {
        "index": 0,
        "id": row["id"],
        "state": "indexed",
        "duplicate": False,
        "sha256": digest("a"),
        "filename": "cat.png",
        "content_type": "image/png",
        "bytes": 1,
        "width": 4,
        "height": 2,
        "thumbnail": f"/v1/images/{row['id']}/thumbnail",
        "spaces": [CLIP.key],
    }
    assert kit.vectors.ids_in(Space(model="clip", version="1.0.0").alias) == [row["id"]]


async def test_a_duplicate_is_answered_with_the_one_that_is_there(http: httpx.AsyncClient) -> None:
    first = only(await upload(http, picture(b"a")))

    again = only(await upload(http, picture(b"a")), 200)

    assert (again["id"], again["duplicate"], again["state"]) == (first["id"], True, "indexed")


async def test_pictures_that_are_not_indexed_in_time_are_accepted(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.world.embedder.raises = AWAY

    row = only(await upload(http, picture(b"a")), 202)

    assert row["state"] == "retrying"


async def test_who_does_not_wait_is_answered_at_once(kit: Kit, http: httpx.AsyncClient) -> None:
    by_field = only(await upload(http, picture(b"a"), wait="false"), 202)
    by_query = only(await upload(http, picture(b"b"), path=f"{PATH}?wait=false"), 202)

    assert {by_field["state"], by_query["state"]} == {"registered"}
    assert kit.world.embedder.asked == []


async def test_several_pictures_have_an_outcome_each(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn", expected="a whole picture")}
    plain: Part = ("files", (None, b"a text"))
    given = [picture(b"a"), picture(b"torn"), plain, picture(b"x" * 4097), picture(b"a"), picture(b"b")]

    answer = await upload(http, *given)

    assert answer.status_code == 200
    rows = answer.json()["data"]
    assert [row["index"] for row in rows] == list(range(6))
    codes = [row["error"]["code"] if "error" in row else row["state"] for row in rows]
    assert codes == ["indexed", "invalid_input", "invalid_input", "limit_exceeded", "indexed", "indexed"]
    assert (rows[4]["id"], rows[4]["duplicate"]) == (rows[0]["id"], True)


async def test_several_of_which_some_are_not_indexed_yet_are_accepted(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.world.embedder.fails = {b"slow": AWAY}

    answer = await upload(http, picture(b"a"), picture(b"slow"))

    assert answer.status_code == 202
    assert [row["state"] for row in answer.json()["data"]] == ["indexed", "retrying"]


async def test_one_picture_that_is_none_has_its_errors_status(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn")}

    answer = await upload(http, picture(b"torn"))

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "tags", ['["pet", "small, brown"]', ["pet", "small brown"], "pet,small brown", '"pet , small brown"']
)
async def test_tags_come_as_json_as_fields_or_between_commas(http: httpx.AsyncClient, tags: Any) -> None:
    row = only(await upload(http, picture(b"a"), tags=tags))

    told = (await http.get(f"{PATH}/{row['id']}")).json()["tags"]
    assert [tag.replace(",", "") for tag in told] == ["pet", "small brown"]


async def test_metadata_are_of_all_pictures_or_of_each(http: httpx.AsyncClient) -> None:
    every = await upload(http, picture(b"a"), picture(b"b"), metadata='{"year": 2020}')
    each = await upload(http, picture(b"c"), picture(b"d"), metadata='[{"year": 1}, {"year": 2.5}]')

    ids = [row["id"] for answer in (every, each) for row in answer.json()["data"]]
    told = [(await http.get(f"{PATH}/{id_}")).json()["metadata"] for id_ in ids]
    assert told == [{"year": 2020}, {"year": 2020}, {"year": 1}, {"year": 2.5}]


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"metadata": "[{}, {}]"}, 422, "metadata"),
        ({"metadata": "{"}, 400, "metadata"),
        ({"metadata": "7"}, 422, "metadata"),
        ({"metadata": '{"a": null}'}, 422, "metadata.a"),
        ({"metadata": '{"a.b": 1}'}, 422, "metadata"),
        ({"tags": '["", "x"]'}, 422, "tags"),
        ({"tags": "[7]"}, 422, "tags"),
        ({"tags": json.dumps([str(i) for i in range(65)])}, 413, "tags"),
        ({"collection": "No Name"}, 422, "collection"),
        ({"ttl_s": "soon"}, 422, "ttl_s"),
        ({"ttl_s": "0"}, 422, "ttl_s"),
        ({"wait": "perhaps"}, 422, "wait"),
    ],
)
async def test_what_is_wrong_for_all_pictures_is_a_problem_and_nothing_is_kept(
    kit: Kit, http: httpx.AsyncClient, fields: dict[str, str], status: int, field: str
) -> None:
    answer = await upload(http, picture(b"a"), **fields)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    assert kit.database.store.pictures == {}
    assert kit.files.objects == {}


async def test_a_hostile_file_name_is_kept_as_a_name(http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a", '../../etc/<script>alert("1")</script>\u202e.png')))

    assert row["filename"] == "script>.png"


async def test_a_picture_as_the_body_is_described_in_the_query(http: httpx.AsyncClient) -> None:
    path = f"{PATH}?tags=a,b&metadata=%7B%22x%22%3A1%7D&collection=pets&ttl_s=60"

    row = only(await http.post(path, content=b"a", headers={"content-type": "image/png"}))

    told = (await http.get(f"{PATH}/{row['id']}")).json()
    assert (told["tags"], told["metadata"], told["collection"]) == (["a", "b"], {"x": 1}, "pets")
    assert told["expires_at"] is not None


async def test_a_body_that_is_too_large_is_refused_before_it_is_whole(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, content=b"x" * 5000, headers={"content-type": "application/octet-stream"})

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")


async def test_objects_are_named_in_json(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.files.objects |= {"s3://shop/cats/1.png": b"a", "s3://shop/2.png": b"b"}
    body = {
        "objects": ["s3://shop/cats/1.png", "s3://shop/gone.png", "s3://shop/2.png"],
        "tags": ["x, y"],
        "metadata": [{"n": 1}, {}, {"n": 2}],
        "collection": "shop",
        "wait": True,
    }

    answer = await http.post(PATH, json=body)

    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert [row.get("filename") for row in rows] == ["1.png", None, "2.png"]
    assert rows[1]["error"]["code"] == "image_not_found"
    told = (await http.get(f"{PATH}/{rows[2]['id']}")).json()
    assert (told["tags"], told["metadata"], told["collection"]) == (["x, y"], {"n": 2}, "shop")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "objects"),
        ({"objects": []}, 422, "objects"),
        ({"objects": [1]}, 422, "objects"),
        ({"objects": "s3://a/b"}, 422, "objects"),
        ({"objects": ["s3://a/b"], "colection": "x"}, 422, "colection"),
        ({"objects": ["s3://a/b"] * 9}, 413, "objects"),
        ({"objects": ["s3://a/b"], "collection": 5}, 422, "collection"),
        ({"objects": ["s3://a/b"], "ttl_s": 1.5}, 422, "ttl_s"),
        ({"objects": ["s3://a/b"], "metadata": "x"}, 400, "metadata"),
    ],
)
async def test_json_that_names_no_objects_is_refused(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, field: str
) -> None:
    answer = await http.post(PATH, json=body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("multipart/form-data", b"x", 400),
        ("application/json", b"{", 400),
        ("application/json", b"[]", 422),
        ("multipart/form-data; boundary=x", END, 422),
        ("multipart/form-data; boundary=x", file_part(b"half")[:-2], 400),
        ("multipart/form-data; boundary=x", file_part(b"a", name="image") + END, 422),
    ],
)
async def test_a_body_that_brings_no_pictures_is_refused(
    kit: Kit, http: httpx.AsyncClient, kind: str, body: bytes, status: int
) -> None:
    answer = await http.post(PATH, content=body, headers={"content-type": kind})

    assert answer.status_code == status, answer.text
    assert kit.database.store.pictures == {}


async def test_fields_may_follow_files_while_none_of_these_is_taken(http: httpx.AsyncClient) -> None:
    late = file_part(b"a") + field_part("tags", "late") + END
    too_late = b"".join(file_part(f"{i}".encode()) for i in range(5)) + field_part("tags", "late") + END
    kind = {"content-type": "multipart/form-data; boundary=x"}

    row = only(await http.post(PATH, content=late, headers=kind))
    refused = await http.post(PATH, content=too_late, headers=kind)

    assert (await http.get(f"{PATH}/{row['id']}")).json()["tags"] == ["late"]
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "tags")


async def test_more_files_than_may_be_are_refused(http: httpx.AsyncClient) -> None:
    answer = await upload(http, *[picture(f"{i}".encode()) for i in range(9)])

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")


async def test_pictures_together_may_have_more_bytes_than_a_body_elsewhere(kit: Kit, core: Core, serve: Any) -> None:
    http = serve(create_app(core, max_body_bytes=4096))

    answer = await upload(http, *[picture(bytes([65 + i]) * 4000) for i in range(4)])

    assert [row["state"] for row in answer.json()["data"]] == ["indexed"] * 4


async def test_a_caller_who_leaves_leaves_his_pictures_to_the_events(kit: Kit, core: Core) -> None:
    kit.world.embedder.hold = asyncio.Event()
    talk = Conversation(create_app(core, max_body_bytes=MAX_BODY), PATH)
    talk.send(file_part(b"a") + END, more=False)
    await kit.world.embedder.entered.wait()

    talk.leave()
    await kit.world.embedder.cancelled.wait()

    assert [way.state for way in kit.database.store.ways.values()] == ["working"]
    assert kit.database.types() == ["image.registered.v1"]
    await until(talk.task.done)


async def test_nothing_is_kept_where_there_is_nothing_to_keep_it_in(world: World, serve: Any) -> None:
    http = serve(create_app(Core(world.application()), max_body_bytes=MAX_BODY))

    for answer in (await upload(http, picture(b"a")), await http.get(PATH), await http.post("/v1/search", json={})):
        assert answer.status_code in (422, 503)
    assert (await http.get(PATH)).json()["code"] == "dependency_unavailable"


# What is kept is looked up.


async def test_a_record_tells_how_far_each_way_is(kit: Kit, http: httpx.AsyncClient) -> None:
    kit.world.embedder.raises = AWAY
    row = only(await upload(http, picture(b"a", "a.png"), tags="x", metadata='{"n": 1}'), 202)

    told = (await http.get(f"{PATH}/{row['id']}")).json()

    assert {name: told[name] for name in ("state", "collection", "tags", "metadata", "expires_at")} == {
        "state": "retrying",
        "collection": "default",
        "tags": ["x"],
        "metadata": {"n": 1},
        "expires_at": None,
    }
    (way,) = told["ways"]
    assert (way["space"], way["state"], way["attempts"], way["stage"]) == (CLIP.key, "retry_wait", 1, "embedding")
    assert way["error"] == {"code": "dependency_unavailable", "detail": "nobody is there"}
    assert way["next_attempt_at"] > way["changed_at"]


async def test_pictures_are_listed_the_newest_first_a_page_at_a_time(kit: Kit, http: httpx.AsyncClient) -> None:
    ids = []
    for name in ("a", "b", "c"):
        ids.append(only(await upload(http, picture(name.encode())))["id"])
        kit.time.pass_(1)

    first = (await http.get(PATH, params={"limit": 2})).json()
    rest = (await http.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [row["id"] for row in first["data"]] == [ids[2], ids[1]]
    assert [row["id"] for row in rest["data"]] == [ids[0]]
    assert rest["next_cursor"] is None


async def test_lists_are_narrowed(kit: Kit, http: httpx.AsyncClient) -> None:
    cat = only(await upload(http, picture(b"cat"), tags="pet"))["id"]
    kit.world.embedder.raises = AWAY
    dog = only(await upload(http, picture(b"dog"), tags="pet,wild", collection="dogs"), 202)["id"]

    async def found(**asked: Any) -> list[str]:
        return [row["id"] for row in (await http.get(PATH, params=asked)).json()["data"]]

    assert await found(collection="dogs") == [dog]
    assert await found(state="indexed") == [cat]
    assert await found(state="retrying") == [dog]
    assert await found(tag="wild") == [dog]
    assert set(await found(tag=["wild", "pet"])) == {cat, dog}
    assert await found(sha256=digest("cat")) == [cat]


@pytest.mark.parametrize(
    "asked",
    [{"limit": 501}, {"state": "lost"}, {"sha256": "x"}, {"colour": "red"}, {"cursor": "x"}, {"collection": "A"}],
)
async def test_what_is_not_asked_of_lists_is_refused(http: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    assert (await http.get(PATH, params=asked)).status_code == 422


async def test_a_pictures_bytes_are_shown_and_never_run(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"<script>", "ü ;.png")))

    answer = await http.get(f"{PATH}/{row['id']}/content")

    assert (answer.status_code, answer.content) == (200, b"<script>")
    headers = answer.headers
    assert headers["content-type"] == "image/png"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["content-disposition"] == "inline; filename*=UTF-8''%C3%BC%20%3B.png"
    again = await http.get(f"{PATH}/{row['id']}/content", headers={"if-none-match": headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_what_is_no_raster_picture_is_offered_as_a_file(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a")))
    store = kit.database.store.pictures
    object.__setattr__(store[row["id"]], "content_type", "image/svg+xml")

    answer = await http.get(f"{PATH}/{row['id']}/content")

    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_a_thumbnail_is_small_and_may_be_remembered(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a")))

    answer = await http.get(row["thumbnail"])

    assert (answer.content, answer.headers["content-type"]) == (b"small a", "image/webp")
    assert answer.headers["etag"] == f'"{row["sha256"]}"'
    assert "max-age" in answer.headers["cache-control"]
    again = await http.get(row["thumbnail"], headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await http.get(row["thumbnail"], headers={"if-none-match": '"of something else"'})
    assert other.status_code == 200


async def test_a_thumbnail_that_is_not_there_is_made(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a")))
    kit.files.thumbnails.clear()

    assert (await http.get(row["thumbnail"])).content == b"small a"
    assert kit.files.thumbnails == {row["sha256"]: b"small a"}


async def test_pictures_are_removed_everywhere(kit: Kit, http: httpx.AsyncClient) -> None:
    row = only(await upload(http, picture(b"a")))

    assert (await http.delete(f"{PATH}/{row['id']}")).status_code == 204

    assert kit.files.objects == {}
    assert kit.vectors.ids_in(Space(model="clip", version="1.0.0").name) == []
    for path in ("", "/content", "/thumbnail"):
        gone = await http.get(f"{PATH}/{row['id']}{path}")
        assert (gone.status_code, gone.json()["code"]) == (404, "image_not_found")
    assert (await http.delete(f"{PATH}/{row['id']}")).status_code == 404


async def test_many_pictures_are_removed_by_id_or_by_what_they_are(http: httpx.AsyncClient) -> None:
    a, _ = [only(await upload(http, picture(name)))["id"] for name in (b"a", b"b")]
    await upload(http, picture(b"c"), picture(b"d"), tags="old")

    by_id = await http.post(f"{PATH}/delete", json={"ids": [a, a, "nobody"]})
    by_tag = await http.post(f"{PATH}/delete", json={"tags": ["old"], "collection": "default"})

    assert (by_id.json(), by_tag.json()) == ({"removed": 1}, {"removed": 2})
    assert len((await http.get(PATH)).json()["data"]) == 1


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"ids": ["a"], "tags": ["b"]}, {"state": "deleted"}, {"all": True}, {"ids": [7]}]
)
async def test_nothing_is_removed_that_is_not_named(kit: Kit, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    await upload(http, picture(b"a"))

    assert (await http.post(f"{PATH}/delete", json=body)).status_code == 422
    assert len((await http.get(PATH)).json()["data"]) == 1


async def test_a_picture_that_is_not_there_is_not_found(http: httpx.AsyncClient) -> None:
    for path in ("/nobody", "/nobody/content", "/nobody/thumbnail"):
        assert (await http.get(PATH + path)).json()["code"] == ImageNotFound.code
    assert (await http.get(f"{PATH}/{'x' * 65}")).status_code == 422


# Indexes.


async def test_indexes_are_listed_filled_switched_and_dropped(kit: Kit, http: httpx.AsyncClient) -> None:
    await upload(http, picture(b"a"))

    begun = await http.post("/api/v1/models/vit/reindex", json={"switch": False})
    await kit.fill()

    assert (begun.status_code, begun.json()["state"]) == (202, "building")
    ref = f"{begun.json()['model']}@{begun.json()['version']}"
    told = (await http.get(f"/api/v1/indexes/{ref}")).json()
    assert (told["state"], told["done"], told["total"], told["collection"]) == ("ready", 1, 1, "default")
    switched = await http.post(f"/api/v1/indexes/{ref}/switch")
    assert (switched.status_code, switched.json()["state"]) == (200, "live")
    listed = (await http.get("/api/v1/indexes", params={"collection": "default"})).json()["data"]
    assert sorted((row["model"], row["state"]) for row in listed) == [("clip", "live"), ("vit", "live")]
    refused = await http.delete(f"/api/v1/indexes/{ref}")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_state")
    await http.post("/api/v1/models/vit/reindex", json={"version": "1.0.0", "switch": False})
    assert (await http.delete("/api/v1/indexes/vit@1.0.0")).status_code == 204


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("models/gone/reindex", 404),
        ("models/sam/reindex", 422),
        ("indexes/clip@1.0.0/switch", 404),
        ("indexes/clip/switch", 422),
    ],
)
async def test_what_cannot_be_indexed_or_switched_is_refused(http: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await http.post(f"/api/v1/{path}")).status_code == status
