"""`UploadImages` of `modelmora.v1.ModelInference`: a stream of pictures to keep."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson

from api import render_pictures
from api.grpc.messages import call_of, request_id_of
from api.grpc.statuses import Context, answer, sent
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, ModelMoraError, ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc
from modelmora.usecases.application import Application
from modelmora.usecases.pictures.arrivals import Arrival, Object, Terms
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.upload_stream import Uploaded
from modelmora.wire import error_to_wire

LINGER_S = 0.02
"""After so long without another picture those that have come are taken: who waits for an answer first gets it."""


class ImagesServicer(inference_pb2_grpc.ModelInferenceServicer):
    """The RPC of one use case; who inherits it has the application."""

    _application: Application

    async def UploadImages(  # type: ignore[override] # what grpc calls its reader-writer API
        self, request_iterator: AsyncIterator[pb.UploadImagesRequest], context: Context
    ) -> None:
        request_id = request_id_of(context)

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            application = self._application
            call = call_of(context, request_id, application.limits, stream=True)
            brought, most = _Brought(request_iterator), application.limits.stream_items
            stream = application.kept.upload(brought.arrivals(), brought.terms, call=call, most=most, linger_s=LINGER_S)
            async with aclosing(stream) as windows:
                async for window in windows:
                    results = [_result(one, brought.ids.popleft()) for one in window]
                    await sent(context.write(pb.UploadImagesResponse(results=results)))

        await answer(context, request_id, work)


class _Brought:
    """The pictures of a call; `ids` are the caller's, of those that are not answered yet."""

    def __init__(self, requests: AsyncIterator[pb.UploadImagesRequest]) -> None:
        self.ids: deque[str] = deque()
        self._requests = requests
        self._first: pb.UploadImagesRequest | None = None

    async def arrivals(self) -> AsyncGenerator[Arrival, None]:
        async for request in self._requests:
            self._first = self._first or request
            self.ids.append(request.id)
            yield _arrival(request)
        if self._first is None:
            expected = "at least one"
            raise ValidationFailed("the call has no pictures", field="image", found="none", expected=expected)

    def terms(self) -> Terms:
        """What the first message says of all."""
        first = self._first or pb.UploadImagesRequest()
        return Terms(collection=first.collection or "default", ttl_s=first.ttl_s or None, wait=not first.no_wait)


def _arrival(request: pb.UploadImagesRequest) -> Arrival:
    """One that cannot be read is a failed one."""
    try:
        metadata = _metadata(request.metadata)
    except ModelMoraError as error:
        return Arrival(content=Failed(error))
    content = _content(request)
    return Arrival(content=content, filename=request.filename, tags=tuple(request.tags), metadata=metadata)


def _content(request: pb.UploadImagesRequest) -> Outcome[bytes | Object]:
    match request.WhichOneof("content"):
        case "image":
            return Ok(request.image)
        case "object":
            return Ok(Object(request.object))
    expected = "image or object"
    return Failed(ValidationFailed("the message has no picture", field="content", found="nothing", expected=expected))


def _metadata(text: str) -> dict[str, Any]:
    try:
        told = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"metadata is not JSON: {cause}", field="metadata", found=text[:40]) from cause
    if not isinstance(told, dict):
        expected = "a JSON object"
        raise ValidationFailed("metadata is no object", field="metadata", found=text[:40], expected=expected)
    return told


def _result(one: Uploaded, id_: str) -> pb.UploadResult:
    """Of a call of one picture as well: what comes in a stream has no status of its own."""
    match one.outcome:
        case Ok(kept):
            return pb.UploadResult(index=one.index, id=id_, image=_kept(kept))
        case Failed(error):
            return pb.UploadResult(index=one.index, id=id_, error=error_to_wire(error))


def _kept(kept: Kept) -> pb.KeptImage:
    picture = kept.picture
    return pb.KeptImage(
        id=picture.id,
        state=kept.state,
        duplicate=kept.duplicate,
        sha256=picture.sha256,
        filename=picture.facts.filename,
        content_type=picture.content_type,
        bytes=picture.bytes,
        width=picture.width,
        height=picture.height,
        thumbnail=render_pictures.thumbnail_of(picture.id),
        spaces=kept.spaces,
    )
