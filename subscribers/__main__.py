"""`python -m subscribers`: takes events from Kafka, embeds through an API worker, indexes. No model is loaded here."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import structlog

from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.logs import configure_logging
from modelmora.settings import Settings
from modelmora.usecases.probes import Probes
from subscribers.health import HealthServer, SubscriberHealth
from wiring.subscriber import Subscriber, check_events, open_subscriber
from wiring.tracing import open_tracing

log = structlog.get_logger(__name__)

RETRY_S = 2.0


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; a store that is away at the start is waited for."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        open_tracing(settings, stack, process="subscriber")
        opened = await _opened(settings, stack, stopping)
        if opened is not None:
            await _serve(settings, opened, stopping)


async def _opened(settings: Settings, stack: contextlib.AsyncExitStack, stopping: asyncio.Event) -> Subscriber | None:
    """None where it was told to stop before everything was there."""
    while not stopping.is_set():
        try:
            async with contextlib.AsyncExitStack() as own:
                opened = await open_subscriber(settings, own)
                stack.push_async_exit(own.pop_all())
                return opened
        except ModelMoraError as error:
            log.error("start_failed", why=error.detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await stopping.wait()
    return None


async def _serve(settings: Settings, opened: Subscriber, stopping: asyncio.Event) -> None:
    probes = Probes(opened.checks)
    health = SubscriberHealth(opened.consumer, opened.subscription.lag, probes)
    server = HealthServer(health.app(), host=settings.subscriber.host, port=settings.subscriber.port)
    serving = asyncio.create_task(server.serve())
    consuming = asyncio.create_task(opened.consumer.run())
    probing = asyncio.create_task(probes.run())
    ending = asyncio.create_task(stopping.wait())
    log.info("subscriber_started", group=settings.subscriber.group, api=settings.subscriber.api)
    await asyncio.wait({consuming, ending}, return_when=asyncio.FIRST_COMPLETED)
    health.draining = True
    await opened.consumer.stop(within_s=settings.subscriber.drain_timeout_s)
    await asyncio.wait({consuming}, timeout=5.0)
    server.should_exit = True
    await asyncio.wait({serving}, timeout=5.0)
    ending.cancel()
    probing.cancel()
    if consuming.done() and not consuming.cancelled() and consuming.exception() is not None:
        raise consuming.exception() or RuntimeError


def main() -> None:
    """Exit codes: 0 stopped, 1 failed, 2 not set up for it."""
    try:
        settings = Settings.load()
        check_events(settings)
    except ValidationFailed as error:
        print(error, file=sys.stderr)  # noqa: T201 - nobody listens to a log yet
        sys.exit(2)
    configure_logging(settings.log.level, settings.log.format, process="subscriber")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
