"""gRPC's connections to one server: several channels in turn, and gRPC's status back to our errors."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio

from modelmora.client import grpc_messages as messages
from modelmora.client.address import Address
from modelmora.client.tracing import requesting
from modelmora.domain.inference import Call
from modelmora.errors import Cancelled
from modelmora.proto import inference_pb2, inference_pb2_grpc

_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["ModelInference"].full_name
_MAX_MESSAGE = 64 * 1024 * 1024
_OPTIONS = (
    # Channels to one address would share one connection; SO_REUSEPORT balances connections, not calls.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own backoff grows to two minutes: callers would wait long after the server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name: how long one attempt to connect may take
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # the client retries by code
)


class GrpcConnection:
    """`modelmora.v1.ModelInference` over `channels` connections, used in turn."""

    def __init__(self, address: Address, *, channels: int, token: str | None) -> None:
        self._target = address.target
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels = [_open(address) for _ in range(channels)]
        self._stubs = itertools.cycle([inference_pb2_grpc.ModelInferenceStub(channel) for channel in self._channels])

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _ask(self, method: str, request: Any, call: Call) -> tuple[Any, str]:
        """The response of a call with one answer, and its server timing."""
        with self._calling(method, call) as start:
            rpc = start(request)
            response = await rpc
            return response, messages.text_of(await rpc.trailing_metadata()).get("server-timing", "")

    @contextmanager
    def _calling(self, method: str, call: Call) -> Iterator[Callable[..., Any]]:
        """What starts the call, on the next channel; within the block gRPC's errors become ours."""
        name = f"{_SERVICE}/{method}"
        told: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": name, "server.address": self._target}
        with requesting(name, told) as trace, self._translated():
            yield partial(getattr(next(self._stubs), method), **self._options(call, trace))

    def _options(self, call: Call, trace: Mapping[str, str]) -> dict[str, Any]:
        return {
            "timeout": None if math.isinf(call.deadline) else max(call.deadline - time.monotonic(), 0.0),
            "metadata": (
                ("x-request-id", call.request_id),
                ("x-modelmora-priority", call.priority),
                *self._authorization,
                *trace.items(),
            ),
        }

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as cause:
            raise messages.error_of(cause, self._target) from cause
        except asyncio.CancelledError:
            if caller_left():
                raise
            raise Cancelled("the client was closed while the request ran") from None


def caller_left() -> bool:
    """False when gRPC cancels a call because its channel was closed: nobody cancelled the task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _open(address: Address) -> grpc.aio.Channel:
    if address.tls:
        return grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(address.target, options=_OPTIONS)
