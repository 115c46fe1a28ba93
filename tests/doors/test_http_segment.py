"""`/v1/segment` over an application of fakes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from api.core import Core
from api.http.app import create_app
from api.prompts import asked_of
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.segmentation import Box, Everything, Mask, MaskOptions, Point, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import InputError, InvalidInput, LimitExceeded, Overloaded, ValidationFailed
from tests.doors.conversation import END, Conversation, field_part, file_part
from tests.fakes import CLIP, MASK, STAGES, World, until

PATH = "/v1/segment"
DEFAULT_SAM = ModelSpec(
    name="sam", version="2.0.0", type="segmentation", provider="sam", source="hub:somebody/sam", default=True
)
PIXELS = np.array([[0, 1, 1], [0, 1, 0]], dtype=np.uint8)
LOGITS = Tensor(dtype="float32", shape=(2, 2), data=np.arange(4, dtype="<f4").tobytes())
DRAWN = Mask(
    counts=coco.encode(np.asfortranarray(PIXELS))["counts"],
    score=0.5,
    area=3,
    box=Box(left=1.0, top=0.0, right=3.0, bottom=2.0),
    logits=LOGITS,
    stability=0.25,
)
FILES = {"files": ("a.png", b"picture", "image/png")}
POINT = '[{"points": [[1, 1]]}]'
NDJSON = {"accept": "application/x-ndjson"}


@pytest.fixture
def world() -> World:
    return World(catalogue=Catalogue((CLIP, DEFAULT_SAM), (GroupSpec(),)))


def drawn(world: World) -> None:
    world.segmenter.gives, world.segmenter.size = (DRAWN,), (2, 3)


async def post(http: httpx.AsyncClient, headers: Any = None, **fields: str) -> httpx.Response:
    return await http.post(PATH, files=FILES, data=fields, headers=headers)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in response.text.splitlines()]


async def test_masks_of_each_prompt_in_the_order_asked(http: httpx.AsyncClient, world: World) -> None:
    drawn(world)

    answer = await post(http, prompts='[{"id": "cup", "points": [[1, 1]]}, {"box": [0, 0, 2, 2]}]')

    assert answer.status_code == 200
    body = answer.json()
    assert {k: body[k] for k in ("model", "version", "height", "width")} == {
        "model": "sam",
        "version": "2.0.0",
        "height": 2,
        "width": 3,
    }
    assert [(row["index"], row.get("id")) for row in body["data"]] == [(0, "cup"), (1, None)]
    [mask] = body["data"][0]["masks"]
    logits = base64.b64encode(LOGITS.data).decode()
    assert mask == {
        "format": "rle",
        "rle": {"size": [2, 3], "counts": DRAWN.counts.decode()},
        "score": 0.5,
        "area": 3,
        "box": [1.0, 0.0, 3.0, 2.0],
        "stability": 0.25,
        "logits": logits,
    }
    assert np.array_equal(coco.decode(mask["rle"]), PIXELS)


async def test_the_timings_are_in_the_header(http: httpx.AsyncClient) -> None:
    answer = await post(http, prompts=POINT)

    assert re.fullmatch(STAGES, answer.headers["server-timing"])


@pytest.mark.parametrize("format_", ["png", "bytes"])
async def test_masks_as_pictures_and_as_bytes(http: httpx.AsyncClient, world: World, format_: str) -> None:
    drawn(world)

    answer = await post(http, prompts=POINT, format=format_)

    [mask] = answer.json()["data"][0]["masks"]
    data = base64.b64decode(mask["data"])
    assert mask["format"] == format_
    assert "rle" not in mask
    if format_ == "png":
        picture = Image.open(io.BytesIO(data))
        assert picture.mode == "1"
        assert np.array_equal(np.asarray(picture), PIXELS.astype(bool))
    else:
        assert np.array_equal(np.frombuffer(data, np.uint8).reshape(2, 3), PIXELS)


async def test_prompts_of_every_form_reach_the_use_case(http: httpx.AsyncClient, world: World) -> None:
    mask = base64.b64encode(LOGITS.data).decode()
    prompts = [
        {"points": [[1, 2], [3.5, 4, 0], [5, 6, 1]]},
        {"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4, "background": True}, {"x": 5, "y": 6, "label": 0}]},
        {"id": 7, "box": [1, 2, 3, 4], "mask": mask, "points": None},
    ]

    answer = await post(
        http, prompts=orjson.dumps(prompts).decode(), multimask="false", logits="true", model='"sam@2.0.0"'
    )

    assert answer.status_code == 200
    [(model, image, asked, options, call)] = world.segmenter.asked
    assert asked == [
        Prompt(points=(Point(x=1, y=2), Point(x=3.5, y=4, background=True), Point(x=5, y=6))),
        Prompt(points=(Point(x=1, y=2), Point(x=3, y=4, background=True), Point(x=5, y=6, background=True))),
        Prompt(id="7", box=Box(left=1, top=2, right=3, bottom=4), mask=LOGITS),
    ]
    assert (model, image.data, options) == (DEFAULT_SAM, b"picture", MaskOptions(multimask=False, logits=True))
    assert call.face == "http"


async def test_a_form_field_may_be_json_in_json(http: httpx.AsyncClient, world: World) -> None:
    await post(http, prompts=orjson.dumps(POINT).decode(), format='"png"')

    assert world.segmenter.asked[0][2] == [Prompt(points=(Point(x=1, y=1),))]


async def test_a_picture_may_be_the_whole_body(http: httpx.AsyncClient, world: World) -> None:
    answer = await http.post(
        PATH, params={"prompts": POINT}, content=b"picture", headers={"content-type": "image/jpeg"}
    )

    assert answer.status_code == 200
    assert world.segmenter.asked[0][1].data == b"picture"


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("true", Everything()),
        (
            '{"points_per_side": 8, "min_score": 0.5, "min_stability": 1, "min_area": 9}',
            Everything(points_per_side=8, min_score=0.5, min_stability=1.0, min_area=9),
        ),
        ("{}", Everything()),
    ],
)
async def test_everything_may_be_asked_for(
    http: httpx.AsyncClient, world: World, field: str, asked: Everything
) -> None:
    world.segmenter.gives = (MASK, MASK)

    answer = await post(http, everything=field)

    assert [(row["index"], len(row["masks"])) for row in answer.json()["data"]] == [(0, 1), (1, 1)]
    assert world.segmenter.asked[0][2] == asked


async def test_everything_may_be_declined(http: httpx.AsyncClient, world: World) -> None:
    await post(http, everything="false", prompts=POINT)

    assert world.segmenter.asked[0][2] == [Prompt(points=(Point(x=1, y=1),))]


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({}, 422, "prompts"),
        ({"prompts": "[]"}, 422, "prompts"),
        ({"prompts": "[{"}, 400, "prompts"),
        ({"prompts": "{}"}, 422, "prompts"),
        ({"prompts": "[1]"}, 422, "prompts[0]"),
        ({"prompts": '[{"point": [1, 1]}]'}, 422, "prompts[0].point"),
        ({"prompts": '[{"points": 1}]'}, 422, "prompts[0].points"),
        ({"prompts": '[{"points": [[1]]}]'}, 422, "prompts[0].points[0]"),
        ({"prompts": '[{"points": [[1, "2"]]}]'}, 422, "prompts[0].points[0].y"),
        ({"prompts": '[{"points": [[1, true]]}]'}, 422, "prompts[0].points[0].y"),
        ({"prompts": '[{"points": [[1, 2, 2]]}]'}, 422, "prompts[0].points[0].label"),
        ({"prompts": '[{"points": [{"x": 1}]}]'}, 422, "prompts[0].points[0].y"),
        ({"prompts": '[{"points": [{"x": 1, "y": 1, "z": 1}]}]'}, 422, "prompts[0].points[0].z"),
        ({"prompts": '[{"points": [{"x": 1, "y": 1, "background": 1}]}]'}, 422, "prompts[0].points[0].background"),
        ({"prompts": '[{"box": [1, 2, 3]}]'}, 422, "prompts[0].box"),
        ({"prompts": '[{"box": {"left": 1}}]'}, 422, "prompts[0].box"),
        ({"prompts": '[{"box": [1, 2, 3, null]}]'}, 422, "prompts[0].box[3]"),
        ({"prompts": '[{"box": [1, 2, 3, 4], "mask": 1}]'}, 422, "prompts[0].mask"),
        ({"prompts": '[{"box": [1, 2, 3, 4], "mask": "?"}]'}, 422, "prompts[0].mask"),
        ({"prompts": '[{"box": [1, 2, 3, 4], "mask": "AAAA"}]'}, 422, "prompts[0].mask"),
        ({"prompts": '[{"box": [1, 2, 3, 4], "mask": ""}]'}, 422, "prompts[0].mask"),
        ({"prompts": '[{"id": [], "box": [1, 2, 3, 4]}]'}, 422, "prompts[0].id"),
        ({"prompts": POINT, "everything": "true"}, 422, "everything"),
        ({"everything": "[]"}, 422, "everything"),
        ({"everything": "maybe"}, 400, "everything"),
        ({"everything": '{"points": 3}'}, 422, "everything.points"),
        ({"everything": '{"points_per_side": 3.5}'}, 422, "everything.points_per_side"),
        ({"everything": '{"points_per_side": true}'}, 422, "everything.points_per_side"),
        ({"everything": '{"points_per_side": 65}'}, 422, "everything.points_per_side"),
        ({"everything": '{"min_score": "high"}'}, 422, "everything.min_score"),
        ({"everything": '{"min_area": -1}'}, 422, "everything.min_area"),
        ({"prompts": POINT, "format": "jpeg"}, 422, "format"),
        ({"prompts": POINT, "multimask": "some"}, 422, "multimask"),
        ({"prompts": POINT, "logits": "some"}, 422, "logits"),
    ],
)
async def test_what_is_wrong_is_told_by_its_place(
    http: httpx.AsyncClient, world: World, fields: dict[str, str], status: int, field: str
) -> None:
    answer = await post(http, **fields)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert world.segmenter.asked == []


async def test_too_many_prompts_are_413(http: httpx.AsyncClient) -> None:
    answer = await post(http, prompts="[" + ",".join(["{}"] * 1_001) + "]")

    assert answer.status_code == 413
    assert answer.json()["errors"][0]["field"] == "prompts"


async def test_one_picture_and_no_more(http: httpx.AsyncClient) -> None:
    two = [("files", ("a.png", b"a", "image/png")), ("files", ("b.png", b"b", "image/png"))]

    answer = await http.post(PATH, files=two, data={"prompts": POINT})

    assert answer.status_code == 422
    assert answer.json()["errors"][0] | {"detail": ""} == {
        "code": "validation",
        "detail": "",
        "field": "files",
        "found": "2",
        "expected": "1",
    }


async def test_a_form_without_a_picture_is_422(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, files={"file": ("a.png", b"a")}, data={"prompts": POINT})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "files"


async def test_json_is_not_a_picture(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json={"prompts": []})

    assert answer.status_code == 415


async def test_a_prompt_that_fails_fails_alone(http: httpx.AsyncClient, world: World) -> None:
    world.segmenter.fails = {"bad": ValidationFailed("outside", field="prompts[1].box", found="(9, 9)")}

    answer = await post(http, prompts='[{"box": [1, 2, 3, 4]}, {"id": "bad", "box": [1, 2, 3, 4]}]')

    assert answer.status_code == 200
    good, bad = answer.json()["data"]
    assert "masks" in good
    assert bad == {
        "index": 1,
        "id": "bad",
        "error": {"code": "validation", "detail": "outside", "field": "prompts[1].box", "found": "(9, 9)"},
    }


async def test_when_all_prompts_fail_the_answer_still_says_so(http: httpx.AsyncClient, world: World) -> None:
    world.segmenter.fails = {"bad": ValidationFailed("outside")}

    answer = await post(http, prompts='[{"id": "bad", "box": [1, 2, 3, 4]}, {"id": "bad", "box": [1, 2, 3, 4]}]')

    assert answer.status_code == 200
    assert [row["error"]["code"] for row in answer.json()["data"]] == ["validation"] * 2
    assert answer.json()["height"] is None


async def test_a_request_of_one_prompt_has_its_status(http: httpx.AsyncClient, world: World) -> None:
    world.segmenter.fails = {"bad": ValidationFailed("outside", field="prompts[0].box")}

    answer = await post(http, prompts='[{"id": "bad", "box": [1, 2, 3, 4]}]')

    assert answer.status_code == 422
    assert answer.json()["code"] == "validation"


@pytest.mark.parametrize("headers", [{}, NDJSON])
@pytest.mark.parametrize(
    ("error", "status"), [(InvalidInput("truncated", field="image"), 400), (Overloaded("full", retry_after_s=2.0), 503)]
)
async def test_what_concerns_the_whole_request_is_its_status(
    http: httpx.AsyncClient, world: World, error: Exception, status: int, headers: dict[str, str]
) -> None:
    world.segmenter.raises = error

    answer = await post(http, headers, prompts=POINT)

    assert answer.status_code == status


async def test_another_kind_of_model_says_what_it_can(http: httpx.AsyncClient) -> None:
    answer = await post(http, prompts=POINT, model="clip")

    assert answer.status_code == 422
    assert answer.json()["code"] == "capability_missing"
    assert "embed pictures" in answer.json()["detail"]


async def test_lines_come_as_the_prompts_complete(http: httpx.AsyncClient, world: World) -> None:
    world.segmenter.fails = {"bad": ValidationFailed("outside")}

    answer = await post(
        http, NDJSON, prompts='[{"box": [1, 2, 3, 4]}, {"id": "bad", "box": [1, 2, 3, 4]}, {"box": [1, 2, 3, 4]}]'
    )

    assert answer.headers["content-type"].startswith("application/x-ndjson")
    third, second, first, done = lines(answer)
    assert [row["index"] for row in (third, second, first)] == [2, 1, 0]
    assert {"model", "version", "masks", "height", "width", "server_timing"} <= first.keys()
    assert second["error"]["code"] == "validation"
    assert done == {"model": "sam", "version": "2.0.0", "done": True, "items": 3, "failed": 1}


async def test_a_line_is_sent_before_the_next_prompt_is_done(core: Core, world: World) -> None:
    world.segmenter.hold = asyncio.Event()
    talk = Conversation(create_app(core, max_body_bytes=2**20), PATH, headers=NDJSON)
    talk.send(field_part("prompts", f"[{POINT[1:-1]}, {POINT[1:-1]}]") + file_part(b"1") + END, more=False)

    await talk.lines_come(1)

    assert not talk.over
    world.segmenter.hold.set()
    await talk.end()
    assert talk.over


@pytest.mark.parametrize("headers", [{}, NDJSON])
async def test_one_who_leaves_mid_way_frees_the_work(core: Core, world: World, headers: dict[str, str]) -> None:
    world.segmenter.hold = asyncio.Event()
    talk = Conversation(create_app(core, max_body_bytes=2**20), PATH, headers=headers)
    talk.send(field_part("prompts", f"[{POINT[1:-1]}, {POINT[1:-1]}]") + file_part(b"1") + END, more=False)
    await until(world.segmenter.entered.is_set)

    talk.leave()

    await until(world.segmenter.left.is_set)
    await talk.end()
    assert not talk.over


async def test_one_who_does_not_read_frees_the_work_at_the_deadline(
    core: Core, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.calls.LAST_WORDS_S", 0.05)
    talk = Conversation(
        create_app(core, max_body_bytes=2**20), PATH, headers={**NDJSON, "x-modelmora-timeout-ms": "100"}
    )
    talk.reading.clear()
    talk.send(field_part("prompts", f"[{POINT[1:-1]}, {POINT[1:-1]}]") + file_part(b"1") + END, more=False)

    await until(world.segmenter.left.is_set)
    await talk.end()

    assert (talk.over, talk.body) == (False, b"")


async def test_one_who_reads_late_is_told_of_the_deadline(
    core: Core, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.calls.LAST_WORDS_S", 0.05)
    world.segmenter.hold = asyncio.Event()
    talk = Conversation(
        create_app(core, max_body_bytes=2**20), PATH, headers={**NDJSON, "x-modelmora-timeout-ms": "100"}
    )
    talk.send(field_part("prompts", f"[{POINT[1:-1]}, {POINT[1:-1]}]") + file_part(b"1") + END, more=False)

    first, last = await talk.end()

    assert (first["index"], last["error"]["code"]) == (1, "deadline_exceeded")
    assert (talk.over, world.segmenter.left.is_set()) == (True, True)


async def test_masks_too_large_for_an_answer_say_what_to_ask_for(http: httpx.AsyncClient, world: World) -> None:
    world.segmenter.size = (8_000, 8_000)

    one = await post(http, prompts=POINT, format="bytes")
    two = await post(http, prompts=f"[{POINT[1:-1]}, {POINT[1:-1]}]", format="bytes")

    assert one.status_code == 413
    assert "rle or png" in one.json()["detail"]
    assert [row["error"]["code"] for row in two.json()["data"]] == ["limit_exceeded"] * 2


async def test_an_answer_that_is_collected_is_bounded(
    http: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.segment.ANSWER_BYTES", 3)
    two = f"[{POINT[1:-1]}, {POINT[1:-1]}]"

    collected, streamed = await post(http, prompts=two), await post(http, NDJSON, prompts=two)

    assert collected.status_code == 413
    assert len(lines(streamed)) == 3


async def test_long_prompts_are_read(core: Core, world: World) -> None:
    mask = base64.b64encode(np.zeros((256, 256), "<f4").tobytes()).decode()
    prompts = orjson.dumps([{"points": [[1, 1]], "mask": mask}] * 6).decode()
    app = create_app(core, max_body_bytes=2**24)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://modelmora.test") as http:
        answer = await post(http, prompts=prompts)

    assert answer.status_code == 200, answer.text[:300]
    asked = world.segmenter.asked[0][2]
    assert isinstance(asked, list)
    assert asked[5].mask == Tensor(dtype="float32", shape=(256, 256), data=bytes(4 * 256 * 256))


async def test_the_route_is_in_the_page_of_the_api(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()

    operation = page["paths"][PATH]["post"]
    assert operation["x-permission"] == "infer"
    assert "multipart/form-data" in operation["requestBody"]["content"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "points", "box", "mask", "x", "y", "label", "background", "min_score", "min_area"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(value=_JSON, field=st.sampled_from(["prompts", "everything"]))
def test_whatever_is_sent_is_read_or_refused_by_name(value: Any, field: str) -> None:
    sent = {"prompts": "", "everything": "", field: json.dumps(value)}

    refused: InputError | None = None
    try:
        asked_of(**sent)
    except InputError as error:
        refused = error

    assert refused is None or str(refused.field).startswith(field)


def test_too_much_is_refused_before_it_is_read() -> None:
    """Of what is not read nothing is said: these prompts and points are none."""
    with pytest.raises(LimitExceeded, match="1001 prompts"):
        asked_of("[" + "7," * 1_000 + "7]", "")
    with pytest.raises(ValidationFailed, match="too many points") as caught:
        asked_of('[{"points": [' + "7," * 100 + "7]}]", "")
    assert caught.value.field == "prompts[0].points"
