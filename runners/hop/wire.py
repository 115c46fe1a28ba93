"""The runner hop's messages and our values, converted in one place for both of its ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from modelmora.domain.models import State
from modelmora.domain.preprocess import Description, Interpolation, Preprocess, Resize, TextPreprocess
from modelmora.errors import ModelMoraError, from_code
from modelmora.ports import Footprint, Holding, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2

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


def description_to_wire(value: Description) -> pb.Description:
    """A description as a message."""
    image, text = value.image, value.text
    return pb.Description(
        model=value.model,
        dimension=value.dimension,
        max_batch=value.max_batch,
        image=None
        if image is None
        else pb.ImagePreprocess(
            resize=image.resize,
            height=image.height,
            width=image.width,
            interpolation=image.interpolation,
            fill=image.fill,
            mean=image.mean,
            std=image.std,
        ),
        text=None if text is None else pb.TextPreprocess(tokenizer=text.tokenizer, context_length=text.context_length),
    )


def description_of(message: pb.Description) -> Description:
    """A message as a description."""
    image, text = message.image, message.text
    return Description(
        model=message.model,
        dimension=message.dimension,
        max_batch=message.max_batch,
        image=Preprocess(
            resize=cast(Resize, image.resize),
            height=image.height,
            width=image.width,
            interpolation=cast(Interpolation, image.interpolation),
            fill=image.fill,
            mean=(image.mean[0], image.mean[1], image.mean[2]),
            std=(image.std[0], image.std[1], image.std[2]),
        )
        if message.HasField("image")
        else None,
        text=TextPreprocess(tokenizer=cast(Any, text.tokenizer), context_length=text.context_length)
        if message.HasField("text")
        else None,
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
            pb.Holding(model=h.model, state=h.state, bytes=h.bytes, in_flight=h.in_flight, error=h.error or "")
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
