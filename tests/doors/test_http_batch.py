"""`/v1/embed/batch`: any number of pictures in one form, a line for each as it completes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.core import Core
from api.http.app import create_app
from api.http.multipart import Field, File, parts
from modelmora.domain.inference import Image
from modelmora.domain.outcome import Failed, Ok
from modelmora.errors import InvalidInput, LimitExceeded, ModelMoraError
from tests.doors.conftest import MAX_BODY
from tests.doors.conversation import BOUNDARY, END, FORM, Conversation, field_part, file_part
from tests.doors.test_http_embed import TORN, Part, picture
from tests.fakes import STAGES, World, until, vector_of

PATH = "/v1/embed/batch"


@pytest.fixture
def converse(core: Core) -> Any:
    app = create_app(core, max_body_bytes=MAX_BODY)

    def begin(path: str = PATH, **headers: str) -> Conversation:
        return Conversation(app, path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return begin


async def batch(http: httpx.AsyncClient, *given: Part, path: str = PATH, **fields: str) -> httpx.Response:
    return await http.post(path, files=list(given), data=fields)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of the files in their order, then the last line."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return arranged(answer.text)


def arranged(text: str) -> list[dict[str, Any]]:
    *rows, last = [json.loads(line) for line in text.splitlines()]
    assert "index" not in last
    return [*sorted(rows, key=lambda row: row["index"]), last]


def codes(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["error"]["code"] if "error" in row else "ok" for row in rows if "index" in row]


async def test_each_file_gets_a_line_and_the_last_one_counts_them(http: httpx.AsyncClient) -> None:
    *rows, last = lines(await batch(http, *[picture(f"p{i}".encode(), f"{i}.png") for i in range(150)]))

    assert last == {"done": True, "items": 150, "failed": 0}
    assert all(re.fullmatch(STAGES, row.pop("server_timing")) for row in rows)
    assert rows == [
        {
            "index": i,
            "filename": f"{i}.png",
            "model": "clip",
            "version": "1.0.0",
            "embedding": vector_of(f"p{i}".encode()),
        }
        for i in range(150)
    ]


async def test_lines_come_while_the_body_still_arrives(converse: Any) -> None:
    talk, boundary = converse(), f"--{BOUNDARY}\r\n".encode()
    talk.send(file_part(b"p0") + boundary)  # only with the next boundary it is certain that the file is whole

    rows = await talk.lines_come(1)

    assert (talk.status, rows[0]["index"], talk.over) == (200, 0, False)
    talk.send(file_part(b"p1").removeprefix(boundary) + END, more=False)
    assert (await talk.end())[-1] == {"done": True, "items": 2, "failed": 0}


async def test_a_slow_picture_delays_nobody(world: World, converse: Any) -> None:
    world.embedder.holds = {b"slow": asyncio.Event()}
    talk = converse()
    talk.send(file_part(b"slow") + file_part(b"a") + file_part(b"b") + END, more=False)

    assert sorted(row["index"] for row in await talk.lines_come(2)) == [1, 2]
    world.embedder.holds[b"slow"].set()
    assert [row.get("index") for row in (await talk.end())[2:]] == [0, None]


async def test_pictures_fail_alone(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN}
    plain: Part = ("files", (None, b"a text"))

    *rows, last = lines(await batch(http, picture(b"a"), picture(b"torn"), plain, picture(b"x" * 4097), picture(b"")))

    assert codes(rows) == ["ok", "invalid_input", "invalid_input", "limit_exceeded", "ok"]
    assert rows[1]["error"]["expected"] == "a whole picture"
    assert "no filename" in rows[2]["error"]["detail"]
    assert rows[3]["error"]["found"] == "4097 bytes"
    assert last == {"done": True, "items": 5, "failed": 3}


async def test_fields_before_the_files_or_in_the_query_say_how(world: World, http: httpx.AsyncClient) -> None:
    form = await batch(http, picture(b"a"), model='"vit@1.0.0"', encoding_format="base64", truncate="true", other="x")
    query = await batch(http, picture(b"a"), path=f"{PATH}?model=vit@1.0.0&encoding_format=base64&truncate=true")

    for answer in (form, query):
        row = lines(answer)[0]
        assert np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() == vector_of(b"a")
        assert (row["model"], row["version"]) == ("vit", "1.0.0")
    assert [asked.call.truncate for asked in world.embedder.asked] == [True, True]


async def test_a_field_that_comes_after_a_file_is_too_late(converse: Any) -> None:
    talk = converse()
    talk.send(file_part(b"a") + field_part("model", "vit") + file_part(b"b") + END, more=False)

    *rows, last = await talk.end()

    assert codes(rows) == ["ok"]
    assert (last["error"]["code"], last["error"]["field"]) == ("validation", "model")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gone"}, 404, "model_not_found"),
        ({"model": "sam"}, 422, "capability_missing"),
        ({"encoding_format": "hex"}, 422, "validation"),
        ({"truncate": "perhaps"}, 422, "validation"),
        ({"note": "x" * 5000}, 413, "limit_exceeded"),
    ],
)
async def test_what_is_wrong_with_the_whole_is_a_problem_before_anything_is_sent(
    fields: dict[str, str], status: int, code: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await batch(http, picture(b"a"), **fields)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("image/png", b"x", 415),
        ("multipart/form-data", b"--x\r\n\r\n--x--", 400),
        ("multipart/form-data; boundary=" + "y" * 300, b"x", 400),
        (FORM, b"no boundary in sight", 400),
        (FORM, b"", 400),
        (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", 400),
        (FORM, b"--x\r\nbroken header\r\n\r\na\r\n--x--\r\n", 400),
        (FORM, file_part(b"half a pict")[:-2], 400),
        (FORM, END, 422),
        (FORM, file_part(b"a", name="images") + field_part("model", "clip") + END, 422),
    ],
    ids=["json", "raw", "no boundary", "long boundary", "another", "empty", "no name", "header", "cut", "none", "name"],
)
async def test_a_body_that_is_no_form_of_files_is_refused(
    kind: str, body: bytes, status: int, world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post(PATH, content=body, headers={"content-type": kind})

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert world.embedder.asked == []


async def test_a_form_without_files_says_what_it_has(http: httpx.AsyncClient) -> None:
    answer = await batch(http, ("images", ("a.png", b"a")), note="x")

    assert answer.json()["errors"][0]["found"] == "note, images"


async def test_parts_of_other_names_are_passed_over_but_not_without_end(http: httpx.AsyncClient) -> None:
    other: Part = ("images", ("a.png", b"a"))

    assert lines(await batch(http, *[other] * 64, picture(b"a")))[-1] == {"done": True, "items": 1, "failed": 0}
    assert (await batch(http, *[other] * 65, picture(b"a"))).status_code == 413


@pytest.mark.parametrize("rest", [b"", b"half a pict"])
async def test_a_form_that_is_cut_off_answers_what_was_whole_and_says_so(rest: bytes, http: httpx.AsyncClient) -> None:
    body = file_part(b"a") + file_part(b"b") + (file_part(rest)[:-2] if rest else b"--x\r\n")

    answer = await http.post(PATH, content=body, headers={"content-type": FORM})

    *rows, last = lines(answer)
    assert codes(rows) == ["ok", "ok"]
    assert last["error"]["code"] == "invalid_input"
    assert "cut off" in last["error"]["detail"]


async def test_a_body_larger_than_the_limit_of_other_routes_is_taken(http: httpx.AsyncClient) -> None:
    *_, last = lines(await batch(http, *[picture(b"x" * 4096)] * (2 * MAX_BODY // 4096)))

    assert last == {"done": True, "items": 2 * MAX_BODY // 4096, "failed": 0}


async def test_more_files_than_a_stream_may_have_end_it(http: httpx.AsyncClient) -> None:
    *rows, last = lines(await batch(http, *[picture(b"a")] * 201))

    assert len(rows) == 200
    assert (last["error"]["code"], last["error"]["expected"]) == ("limit_exceeded", "at most 200")


async def test_a_stream_is_bulk_and_has_its_own_deadline_only_when_told(world: World, http: httpx.AsyncClient) -> None:
    before = time.monotonic()
    await batch(http, picture(b"a"))
    headers = {"x-modelmora-timeout-ms": "50000", "x-modelmora-priority": "interactive", "x-request-id": "req-1"}
    answer = await http.post(PATH, files=[picture(b"a")], headers=headers)
    after = time.monotonic()

    first, second = (asked.call for asked in world.embedder.asked)
    assert (first.priority, second.priority, second.request_id) == ("bulk", "interactive", "req-1")
    assert before + 10 <= first.deadline <= after + 10
    assert before + 50 <= second.deadline <= after + 50
    assert answer.headers["x-request-id"] == "req-1"


async def test_the_body_is_not_read_further_than_the_window_has_room(world: World, converse: Any) -> None:
    world.embedder.hold = asyncio.Event()
    talk = converse()
    for _ in range(100):
        talk.send(file_part(b"a"))
    talk.send(END, more=False)
    await until(lambda: world.embedder.running == 16)
    for _ in range(50):
        await asyncio.sleep(0)

    assert talk.taken <= 19
    world.embedder.hold.set()
    assert (await talk.end())[-1] == {"done": True, "items": 100, "failed": 0}


async def test_who_reads_only_after_having_sent_everything_is_served(converse: Any) -> None:
    talk = converse()
    talk.reading.clear()
    for _ in range(150):
        talk.send(file_part(b"a"))
    talk.send(END, more=False)
    await until(lambda: talk.taken == 151)

    talk.reading.set()

    assert (await talk.end())[-1] == {"done": True, "items": 150, "failed": 0}


@pytest.mark.parametrize("body_is_whole", [True, False])
async def test_a_caller_who_leaves_frees_the_work(body_is_whole: bool, world: World, converse: Any) -> None:
    world.embedder.holds = {b"slow": asyncio.Event()}
    talk = converse()
    talk.send(file_part(b"a") + file_part(b"slow 1") + file_part(b"slow 2") + f"--{BOUNDARY}".encode())
    await talk.lines_come(1)
    if body_is_whole:
        talk.send(b"--\r\n", more=False)
    else:
        talk.send(b"\r\n")
    await until(lambda: world.embedder.running == 2)

    talk.leave()

    await until(lambda: world.embedder.running == 0)
    await talk.end()
    assert not talk.over
    assert talk.scope["state"]["code"] == "cancelled"


async def test_a_defect_in_the_middle_is_the_last_line(world: World, converse: Any) -> None:
    talk = converse()
    talk.send(file_part(b"a") + f"--{BOUNDARY}\r\n".encode())
    await talk.lines_come(1)
    talk.send(b"broken header\r\n\r\n")

    last = (await talk.end())[-1]

    assert (last["error"]["code"], talk.over) == ("invalid_input", True)


def test_the_route_is_in_the_openapi_page(core: Core) -> None:
    app: Any = create_app(core, max_body_bytes=MAX_BODY)
    routes = {route.path: route for route in app.routes if getattr(route, "path", "") == PATH}

    assert routes[PATH].operation["responses"]["200"]["content"].keys() == {"application/x-ndjson"}


contents = st.binary(max_size=40).filter(lambda data: b"\r\n--x" not in b"\r\n" + data)


@given(st.lists(st.tuples(st.booleans(), contents), max_size=6), st.lists(st.integers(1, 400), max_size=8))
def test_a_form_is_read_the_same_however_it_is_cut_into_pieces(
    given: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    body = b"".join(
        file_part(data, "f.png") if is_file else field_part("n", base64.b64encode(data).decode())
        for is_file, data in given
    )
    read = asyncio.run(collected(pieces(body + END, cuts)))

    assert read == [
        File("files", "f.png", Ok(data)) if is_file else Field("n", base64.b64encode(data).decode())
        for is_file, data in given
    ]


@given(st.binary(max_size=300), st.lists(st.integers(1, 100), max_size=8))
def test_garbage_is_never_more_than_an_error_of_ours(garbage: bytes, cuts: list[int]) -> None:
    for body in (garbage, b"--x\r\n" + garbage, file_part(garbage)):
        with contextlib.suppress(InvalidInput, LimitExceeded):
            assert all(isinstance(part, File | Field) for part in asyncio.run(collected(pieces(body, cuts))))


async def test_a_file_over_the_limit_is_not_kept() -> None:
    body = file_part(b"x" * 5000) + file_part(b"y" * 5001) + END

    first, second = await collected(pieces(body, [100] * 100), max_file_bytes=5000)

    assert isinstance(first, File)
    assert first.content == Ok(b"x" * 5000)
    assert isinstance(second, File)
    assert isinstance(second.content, Failed)


@pytest.mark.parametrize("name", ["katze.png", "кот.png", "a b.png", ""])
async def test_file_names_of_every_language_come_back(name: str) -> None:
    (part,) = await collected(pieces(file_part(b"a", name) + END, []))
    assert isinstance(part, File)
    assert part.filename == name


async def test_a_name_in_an_old_encoding_is_taken_as_far_as_it_can_be() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="k\xe4se.png"\r\n\r\na\r\n' + END
    (part,) = await collected(pieces(body, []))
    assert isinstance(part, File)
    assert part.filename == "käse.png"


async def test_more_fields_than_a_form_may_have_are_refused() -> None:
    with pytest.raises(ModelMoraError, match="too many fields"):
        await collected(pieces(field_part("n", "v") * 65 + END, []))


async def test_what_is_no_form_is_told_before_it_is_read() -> None:
    with pytest.raises(InvalidInput):
        await collected(pieces(b"", []), kind="multipart/form-data; boundary=")


async def pieces(body: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    for cut in cuts:
        yield body[:cut]
        body = body[cut:]
    yield body


async def collected(body: AsyncIterator[bytes], *, kind: str = FORM, max_file_bytes: int = 4096) -> list[Any]:
    return [part async for part in parts(body, kind, max_file_bytes=max_file_bytes)]


async def test_pictures_arrive_whole(world: World, http: httpx.AsyncClient) -> None:
    odd = [b"\r\n--", b"--x--", b"\r\n--x ", b"\r\n", b"\0" * 100]

    lines(await batch(http, *[picture(data) for data in odd]))

    assert {asked.items for asked in world.embedder.asked} == {(Image(data),) for data in odd}
