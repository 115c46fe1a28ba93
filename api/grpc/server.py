"""The gRPC server that runs inside each API worker."""

from __future__ import annotations

from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from api.grpc.inference import InferenceServicer
from api.grpc.management import ManagementServicer
from api.grpc.tracing import Traced
from api.oip.grpc import OpenInferenceServicer
from modelmora import tracing
from modelmora.errors import DependencyUnavailable
from modelmora.proto import (
    inference_pb2,
    inference_pb2_grpc,
    management_pb2,
    management_pb2_grpc,
    open_inference_pb2,
    open_inference_pb2_grpc,
)
from modelmora.usecases.application import Application

log = structlog.get_logger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcServer:
    """Inference, management, the Open Inference Protocol, health and reflection on one port."""

    def __init__(self, application: Application, *, host: str, port: int, max_message_bytes: int, share: bool) -> None:
        self._address = f"{host}:{port}"
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Two starts must not share the port unseen; several API workers of one start must.
                ("grpc.so_reuseport", int(share)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
            interceptors=[Traced()] if tracing.on() else [],
        )
        inference_pb2_grpc.add_ModelInferenceServicer_to_server(InferenceServicer(application), self._server)
        management_pb2_grpc.add_ModelManagementServicer_to_server(ManagementServicer(application), self._server)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            OpenInferenceServicer(application), self._server
        )
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.services = (
            inference_pb2.DESCRIPTOR.services_by_name["ModelInference"].full_name,
            management_pb2.DESCRIPTOR.services_by_name["ModelManagement"].full_name,
            open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(self.services, self._server)
        self.port = 0

    async def start(self) -> None:
        """Binds and serves; raises DependencyUnavailable when the port is taken."""
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as cause:
            raise DependencyUnavailable(
                f"gRPC cannot listen on {self._address}: the port is taken; set MODELMORA_GRPC_PORT"
            ) from cause
        await self._server.start()
        await self._set(_SERVING)
        log.info("grpc_started", address=self._address)

    async def drain(self) -> None:
        """Tells health watchers that no new work should come."""
        await self._set(_NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Finishes what runs, for so long at most."""
        await self._server.stop(grace_s)

    async def _set(self, status: Any) -> None:
        for name in ("", *self.services[:3]):
            await self._health.set(name, status)
