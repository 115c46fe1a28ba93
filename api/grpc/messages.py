"""What the RPCs of inference have in common: who asks, items as they come, embeddings as they go."""

from __future__ import annotations

from api import calls
from api.grpc.statuses import Context
from modelmora.domain.inference import Call, Content, Embedded, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import CapabilityMissing, ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import types_pb2
from modelmora.usecases.admission import Limits
from modelmora.wire import error_to_wire


def metadata_of(context: Context) -> dict[str, str]:
    """The call's textual metadata."""
    return {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}


def request_id_of(context: Context) -> str:
    """The caller's id, or a new one: ask once a call."""
    return calls.request_id(metadata_of(context).get(calls.REQUEST_ID))


def call_of(context: Context, request_id: str, limits: Limits, *, truncate: bool = False, stream: bool = False) -> Call:
    """Who asks, until when (gRPC's own deadline), how urgently; `stream` as in `calls.read_call`."""
    return calls.read_call(
        metadata_of(context),
        id_=request_id,
        face="grpc",
        limits=limits,
        truncate=truncate,
        remaining_s=context.time_remaining(),
        stream=stream,
    )


def content_of(item: types_pb2.Item) -> Outcome[Content]:
    """An item that cannot be read is a failed one."""
    match item.WhichOneof("content"):
        case "image":
            return Ok(Image(item.image))
        case "text":
            return Ok(Text(item.text))
        case "object":
            return Failed(CapabilityMissing("stored pictures are not served yet; send the bytes", field="object"))
    return Failed(ValidationFailed("the item is empty", field="content", found="nothing", expected="image or text"))


def embedding_result(index: int, id_: str, outcome: Outcome[Embedded]) -> pb.EmbeddingResult:
    """The vector or the error of the item at `index`."""
    match outcome:
        case Ok(value):
            vector = types_pb2.Vector(
                data=value.vector.data, dtype=types_pb2.DTYPE_FLOAT32, shape=[value.vector.dimension]
            )
            return pb.EmbeddingResult(index=index, id=id_, embedding=vector)
        case Failed(error):
            return pb.EmbeddingResult(index=index, id=id_, error=error_to_wire(error))
