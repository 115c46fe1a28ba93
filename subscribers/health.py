"""How a subscriber is: probes, what it works on, how far behind it is; over HTTP on a port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from modelmora.errors import DependencyUnavailable
from modelmora.usecases.probes import Probes
from subscribers.consumer import Consumer

SILENT_S = 60.0
"""A consumer that has not been heard of for so long is stuck: its loop asks several times a second."""

LAG = Gauge("modelmora_consumer_lag", "Messages that wait in the partitions of this member")
IN_FLIGHT = Gauge("modelmora_consumer_in_flight", "Messages taken and not done")
PAUSED = Gauge("modelmora_consumer_paused", "1 while nothing is taken")


class SubscriberHealth:
    """What the consumer says of itself, and `probes` of the stores."""

    def __init__(
        self, consumer: Consumer, lag: Callable[[], Awaitable[Mapping[tuple[str, int], int]]], probes: Probes
    ) -> None:
        self._consumer = consumer
        self._lag = lag
        self._probes = probes
        self.draining = False

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
            ]
        )

    async def _livez(self, _: Request) -> Response:
        state = self._consumer.state()
        alive = state.running and (state.seen_s < SILENT_S or bool(state.why))
        return JSONResponse({"live": alive}, 200 if alive else 503)

    async def _readyz(self, _: Request) -> Response:
        state = self._consumer.state()
        ready = state.running and not self.draining and state.partitions > 0 and not state.why
        return JSONResponse({"ready": ready, "partitions": state.partitions, "why": state.why}, 200 if ready else 503)

    async def _health(self, _: Request) -> Response:
        dependencies = {name: look.told() for name, look in (await self._probes.last()).items()}
        state = self._consumer.state()
        fine = not state.why and all(each["status"] == "ok" for each in dependencies.values())
        told = {"status": "ok" if fine else "degraded", "consumer": asdict(state), "lag": await self._behind()}
        return JSONResponse({**told, "dependencies": dependencies})

    async def _metrics(self, _: Request) -> Response:
        state = self._consumer.state()
        IN_FLIGHT.set(state.in_flight)
        PAUSED.set(state.paused)
        behind = await self._behind()
        if behind is not None:
            LAG.set(behind)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def _behind(self) -> int | None:
        """None while the broker does not tell."""
        try:
            return sum((await self._lag()).values())
        except DependencyUnavailable:
            return None


class HealthServer(uvicorn.Server):
    """Leaves signals to the process."""

    def __init__(self, app: Starlette, *, host: str, port: int) -> None:
        super().__init__(uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, lifespan="off"))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of them."""
        yield
