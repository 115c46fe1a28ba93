"""`UploadImages` and `Search` over gRPC."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from api.core import Core
from modelmora.domain.pictures.spaces import Space
from modelmora.errors import DependencyUnavailable, InvalidInput
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.fakes import CLIP, World, vector_of
from tests.galleries import Kit
from tests.pictures import digest


@pytest.fixture
def kit(world: World) -> Kit:
    return Kit(world=world)


@pytest.fixture
def core(kit: Kit) -> Core:
    return Core(kit.application())


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


async def upload(stub: Any, requests: Sequence[pb.UploadImagesRequest]) -> list[pb.UploadResult]:
    return [result async for response in stub.UploadImages(iter(requests)) for result in response.results]


async def search(stub: Any, *queries: pb.SearchQuery, **more: Any) -> pb.SearchResponse:
    answer: pb.SearchResponse = await stub.Search(pb.SearchRequest(queries=queries, **more))
    return answer


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    told = dict(refused.value.trailing_metadata() or ())
    return refused.value.code(), str(told["modelmora-code"])


async def test_a_stream_of_pictures_is_kept_and_found(kit: Kit, stub: Any) -> None:
    first = pb.UploadImagesRequest(
        id="mine", image=b"cat", filename="a/cat.png", tags=["pet"], metadata='{"legs": 4}', collection="pets", ttl_s=60
    )

    results = await upload(stub, [first, pb.UploadImagesRequest(id="other", image=b"dog")])

    assert [(result.index, result.id, result.image.state) for result in results] == [
        (0, "mine", "indexed"),
        (1, "other", "indexed"),
    ]
    kept = results[0].image
    assert (kept.sha256, kept.filename, kept.content_type, kept.bytes) == (digest("cat"), "cat.png", "image/png", 3)
    assert (kept.width, kept.height, list(kept.spaces)) == (4, 2, [CLIP.key])
    records = kit.database.store.pictures
    assert {record.collection for record in records.values()} == {"pets"}
    assert records[kept.id].expires_at is not None
    (hit,) = (await search(stub, pb.SearchQuery(text="cat"), collection="pets", limit=1)).results
    assert (hit.id, list(hit.tags), json.loads(hit.metadata)) == (kept.id, ["pet"], {"legs": 4})
    assert (hit.filename, hit.thumbnail, hit.content_type) == ("cat.png", kept.thumbnail, "image/png")


async def test_pictures_fail_alone_in_a_stream(kit: Kit, stub: Any) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn")}
    kit.files.objects["s3://shop/1.png"] = b"one"

    results = await upload(
        stub,
        [
            pb.UploadImagesRequest(image=b"torn"),
            pb.UploadImagesRequest(),
            pb.UploadImagesRequest(image=b"a", metadata="{"),
            pb.UploadImagesRequest(image=b"b", metadata="[]"),
            pb.UploadImagesRequest(image=b"c", tags=["x" * 200]),
            pb.UploadImagesRequest(object="s3://shop/1.png"),
            pb.UploadImagesRequest(object="s3://shop/2.png"),
            pb.UploadImagesRequest(image=b"d"),
        ],
    )

    codes = [result.error.code or result.image.state for result in results]
    assert codes == [
        "invalid_input", "validation", "invalid_input", "validation", "validation", "indexed", "image_not_found",
        "indexed",
    ]  # fmt: skip


async def test_a_picture_is_answered_while_the_stream_is_open(stub: Any) -> None:
    answered = asyncio.Event()

    async def sending() -> AsyncIterator[pb.UploadImagesRequest]:
        yield pb.UploadImagesRequest(image=b"a")
        await answered.wait()
        yield pb.UploadImagesRequest(image=b"b")

    seen = []
    async for response in stub.UploadImages(sending()):
        seen += [result.index for result in response.results]
        answered.set()

    assert seen == [0, 1]


async def test_who_does_not_wait_is_answered_before_anything_is_embedded(kit: Kit, stub: Any) -> None:
    (result,) = await upload(stub, [pb.UploadImagesRequest(image=b"a", no_wait=True)])

    assert result.image.state == "registered"
    assert kit.world.embedder.asked == []


async def test_a_stream_that_cannot_be_taken_has_a_status(kit: Kit, stub: Any) -> None:
    assert (await code_of(_read(stub, [])))[1] == "validation"
    wrong = [pb.UploadImagesRequest(image=b"a", collection="No Name")]
    assert await code_of(_read(stub, wrong)) == (grpc.StatusCode.INVALID_ARGUMENT, "validation")
    kit.database.store.away = DependencyUnavailable("away")
    away = await code_of(_read(stub, [pb.UploadImagesRequest(image=b"a")]))
    assert away == (grpc.StatusCode.UNAVAILABLE, "dependency_unavailable")


async def _read(stub: Any, requests: Sequence[pb.UploadImagesRequest]) -> None:
    await upload(stub, requests)


async def test_who_leaves_leaves_his_pictures_to_the_events(kit: Kit, stub: Any) -> None:
    kit.world.embedder.hold = asyncio.Event()
    call = stub.UploadImages(iter([pb.UploadImagesRequest(image=b"a")]))
    reading = asyncio.ensure_future(anext(aiter(call)))
    await kit.world.embedder.entered.wait()

    call.cancel()
    await kit.world.embedder.cancelled.wait()
    await asyncio.gather(reading, return_exceptions=True)

    assert [way.state for way in kit.database.store.ways.values()] == ["working"]


def packed(content: bytes) -> types_pb2.Vector:
    return types_pb2.Vector(data=np.array(vector_of(content), "<f4").tobytes(), shape=[4])


async def test_questions_have_the_same_parts_as_over_http(kit: Kit, stub: Any) -> None:
    cat, dog = await kit.kept(b"cat", b"dog")

    for query in (
        pb.SearchQuery(text="cat"),
        pb.SearchQuery(image=b"cat"),
        pb.SearchQuery(vector=packed(b"cat")),
        pb.SearchQuery(text="dog", weight=-1.0),
    ):
        assert (await search(stub, query)).results[0].id == cat
    assert [hit.id for hit in (await search(stub, pb.SearchQuery(id=cat))).results] == [dog]
    both = await search(stub, pb.SearchQuery(text="cat"), pb.SearchQuery(image=b"dog", weight=9.0))
    assert both.results[0].id == dog
    assert both.model == CLIP.key


async def test_pages_filters_and_groups_are_the_same_as_over_http(kit: Kit, stub: Any) -> None:
    old, new = await kit.kept(b"old", metadata={"year": 1999}), await kit.kept(b"new", metadata={"year": 2020})
    words = pb.SearchQuery(text="x")

    narrowed = await search(stub, words, filter='{"metadata": {"year": {"gt": 2000}}}')
    first = await search(stub, words, limit=1)
    rest = await search(stub, words, limit=1, cursor=first.next_cursor)
    groups = await search(stub, words, group_by="year", group_size=1)
    sure = await search(stub, pb.SearchQuery(text="old"), score_threshold=0.9999, exact=True)

    assert [hit.id for hit in narrowed.results] == new
    assert {first.results[0].id, rest.results[0].id} == {*old, *new}
    assert rest.next_cursor == ""
    assert sorted(json.loads(group.value) for group in groups.groups) == [1999, 2020]
    assert [hit.id for hit in sure.results] == old


async def test_a_search_tells_what_it_cost(kit: Kit, stub: Any) -> None:
    await kit.kept(b"cat")
    call = stub.Search(pb.SearchRequest(queries=[pb.SearchQuery(text="cat")]))

    await call

    timing = dict(await call.trailing_metadata())["server-timing"]
    assert re.fullmatch(r"embed;dur=\d+\.\d\d, search;dur=\d+\.\d\d, total;dur=\d+\.\d\d", timing)


BYTES = types_pb2.Vector(data=b"abcd", dtype=types_pb2.DTYPE_UINT8)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.SearchRequest(), "validation"),
        (pb.SearchRequest(queries=[pb.SearchQuery()]), "validation"),
        (pb.SearchRequest(queries=[pb.SearchQuery(text="a")], filter="{"), "invalid_input"),
        (pb.SearchRequest(queries=[pb.SearchQuery(text="a")], filter='{"x": 1}'), "validation"),
        (pb.SearchRequest(queries=[pb.SearchQuery(text="a")], limit=501), "validation"),
        (pb.SearchRequest(queries=[pb.SearchQuery(text="a")], model="gone"), "model_not_found"),
        (pb.SearchRequest(queries=[pb.SearchQuery(id="nobody")]), "image_not_found"),
        (pb.SearchRequest(queries=[pb.SearchQuery(text="a", weight=float("nan"))]), "validation"),
        (pb.SearchRequest(queries=[pb.SearchQuery(vector=types_pb2.Vector(data=b"abc"))]), "validation"),
        (
            pb.SearchRequest(
                queries=[pb.SearchQuery(vector=types_pb2.Vector(data=b"abcd", dtype=types_pb2.DTYPE_UINT8))]
            ),
            "validation",
        ),
    ],
)
async def test_what_is_no_question_is_refused(kit: Kit, stub: Any, request_: pb.SearchRequest, code: str) -> None:
    await kit.kept(b"cat")

    assert (await code_of(stub.Search(request_)))[1] == code


async def test_the_index_is_the_one_that_http_asks(kit: Kit, stub: Any) -> None:
    await upload(stub, [pb.UploadImagesRequest(image=b"a")])

    assert len(kit.vectors.ids_in(Space(model="clip", version="1.0.0").name)) == 1
