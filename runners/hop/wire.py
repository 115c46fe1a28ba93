"""The runner hop's messages and our values, converted in one place for both of its ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import orjson
from pydantic import TypeAdapter

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, State
from modelmora.errors import ModelMoraError, from_code
from modelmora.ports import Footprint, Holding, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2
from runners.inputs.arrays import array_of, bytes_of, dtype_of
from runners.payload import Body, Parcel, Payload

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # With the default back-off a caller hung for over 8 s after a runner was killed.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


_DESCRIPTION = TypeAdapter(Description)
_SPEC = TypeAdapter(ModelSpec)

MESSAGE_BYTES = 64 * 2**20
"""So much goes into one message, or one item if that is larger."""

M = TypeVar("M", pb.InferRequest, pb.InferReply)


def description_to_wire(value: Description) -> pb.Description:
    """A description as a message."""
    return pb.Description(json=_DESCRIPTION.dump_json(value))


def description_of(message: pb.Description) -> Description:
    """A message as a description."""
    return _DESCRIPTION.validate_json(message.json)


def spec_to_wire(value: ModelSpec) -> bytes:
    """A model as a worker is told of it."""
    return _SPEC.dump_json(value)


def spec_of(message: bytes) -> ModelSpec:
    """What a worker was told of a model."""
    return _SPEC.validate_json(message)


def in_messages(whole: M) -> Iterator[M]:
    """Works, or results, in messages of a size that can be carried: of more than 2 GiB nothing at all would arrive."""
    items = whole.work if isinstance(whole, pb.InferRequest) else whole.results
    sizes = [_size(one) for one in items] if len(items) > 1 else []
    if sum(sizes) <= MESSAGE_BYTES:
        yield whole
        return
    name = "work" if isinstance(whole, pb.InferRequest) else "results"
    part, size = type(whole)(), 0
    if isinstance(whole, pb.InferRequest):
        part.cancel.extend(whole.cancel)
        part.specs.extend(whole.specs)
    else:
        part.told.extend(whole.told)
    for one, own in zip(items, sizes, strict=True):
        if size and size + own > MESSAGE_BYTES:
            yield part
            part, size = type(whole)(), 0
        getattr(part, name).append(one)
        size += own
    yield part


def _size(one: pb.Work | pb.Result) -> int:
    """Of its arrays, which is all that counts; `ByteSize` would serialise them once more than they are sent."""
    if one.HasField("parcel"):
        return sum(len(tensor.data) for tensor in one.parcel.tensors)
    return len(one.data if isinstance(one, pb.Work) else one.vector)


TEXT_BYTES = 65_536
"""Texts of more bytes are taken apart in a thread: a million of one letter takes a third of a second."""
TEXTS = 8_192
"""More texts are put together in a thread."""


def is_slow(message: pb.Work | pb.Result) -> bool:
    """Whether reading it takes so long that an event loop should not."""
    return sum(len(one.data) for one in message.parcel.tensors if one.dtype == "bytes") > TEXT_BYTES


def is_slow_body(body: Body) -> bool:
    """Whether writing it takes so long."""
    return isinstance(body, Parcel) and sum(a.size for a in body.tensors.values() if a.dtype.kind in "OSU") > TEXTS


def payload_of(work: pb.Work) -> Payload:
    """What is to be computed; raises ValueError where bytes and shape do not fit."""
    if work.HasField("parcel"):
        return parcel_of(work.parcel)
    if work.task in ("embed_image", "classify"):
        return np.frombuffer(work.data, np.uint8).reshape(tuple(work.shape))
    return np.frombuffer(work.data, np.dtype("<i4") if work.shape else np.uint8)


def fill_body(result: pb.Result, body: Body) -> None:
    """Puts what was computed into its message."""
    if isinstance(body, Parcel):
        result.parcel.CopyFrom(parcel_to_wire(body))
    else:
        result.vector = body


def body_of(result: pb.Result) -> Body:
    """What was computed."""
    return parcel_of(result.parcel) if result.HasField("parcel") else result.vector


def parcel_to_wire(value: Parcel) -> pb.Parcel:
    """A parcel as a message."""
    return pb.Parcel(
        tensors=[
            pb.Tensor(name=name, dtype=dtype_of(array), shape=array.shape, data=bytes_of(array))
            for name, array in value.tensors.items()
        ],
        options=orjson.dumps(dict(value.options)) if value.options else b"",
        rows=value.rows,
    )


def parcel_of(message: pb.Parcel) -> Parcel:
    """A message as a parcel."""
    return Parcel(
        tensors={one.name: array_of(one.dtype, tuple(one.shape), one.data) for one in message.tensors},
        options=orjson.loads(message.options) if message.options else {},
        rows=message.rows,
    )


def error_of(message: types_pb2.ItemError) -> ModelMoraError:
    """A message as an error."""
    error = from_code(message.code, message.detail, retry_after_s=message.retry_after_s or None)
    error.field = message.field or None
    error.found = message.found or None
    error.expected = message.expected or None
    return error


def view_to_wire(view: WorkerView) -> pb.WorkerState:
    """A worker's state as a message."""
    return pb.WorkerState(
        group=view.group,
        worker=view.worker,
        pid=view.pid,
        ready=view.ready,
        queued=view.queued,
        device=view.device,
        resident_bytes=view.resident_bytes,
        budget_bytes=view.budget_bytes,
        held_bytes=view.held_bytes,
        holdings=[
            pb.Holding(
                model=h.model, state=h.state, bytes=h.bytes, in_flight=h.in_flight, error=h.error or "", loads=h.loads
            )
            for h in view.holdings.values()
        ],
    )


def view_of(message: pb.WorkerState) -> WorkerView:
    """A message as a worker's state."""
    return WorkerView(
        group=message.group,
        worker=message.worker,
        pid=message.pid,
        ready=message.ready,
        queued=message.queued,
        device=message.device,
        resident_bytes=message.resident_bytes,
        budget_bytes=message.budget_bytes,
        held_bytes=message.held_bytes,
        holdings={
            h.model: Holding(
                model=h.model,
                state=cast(State, h.state),
                bytes=h.bytes,
                in_flight=h.in_flight,
                error=h.error or None,
                loads=h.loads,
            )
            for h in message.holdings
        },
    )


def footprints_to_wire(footprints: Iterable[Footprint]) -> pb.Footprints:
    """Footprints as a message."""
    return pb.Footprints(
        footprints=[
            pb.Footprint(model=f.model, device=f.device, precision=f.precision, bytes=f.bytes) for f in footprints
        ]
    )


def footprints_of(message: pb.Footprints) -> list[Footprint]:
    """A message as footprints."""
    return [Footprint(model=f.model, device=f.device, precision=f.precision, bytes=f.bytes) for f in message.footprints]
