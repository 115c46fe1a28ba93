"""The process that holds a runner worker's models: `python -m wiring.engine GROUP INDEX FOLDER`.

Imports what the group's models need, then forks the engine from itself, again and again; see
`runners/process/zygote.py`. Where forking is not safe it is the engine itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvloop

import wiring
from modelmora import lifeline
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec
from modelmora.logs import configure_logging
from modelmora.settings import Settings
from modelmora.stall import watch_loop
from runners import families
from runners.devices import keep_heap
from runners.process.zygote import Zygote
from wiring.runner import own_share, runner_host
from wiring.tracing import open_tracing

log = structlog.get_logger(__name__)


def main(group: str, index: int, folder: Path) -> None:
    """Until SIGTERM or the end of the parent."""
    keep_heap()
    settings = Settings.load()
    configure_logging(settings.log.level, settings.log.format, process="engine")
    catalogue = wiring.load_catalogue(settings)
    own = next(spec for spec in catalogue.groups if spec.name == group)
    work = partial(_engine, settings, catalogue, own, index=index, folder=folder)
    if sys.platform == "darwin":  # its frameworks, Metal among them, do not survive a fork
        return _run(work)
    zygote = Zygote(lambda: _run(work))
    _import_families(settings, catalogue, own, index)
    gc.collect()
    gc.freeze()  # the forks share these pages for as long as nobody touches them
    zygote.run()


def _import_families(settings: Settings, catalogue: Catalogue, group: GroupSpec, index: int) -> None:
    """What the group's models need; a family that cannot be imported says so when a model is loaded. Of models that
    another library runs the family needs no network of its own."""
    own_share(settings, catalogue, group, index=index)
    for name in sorted({spec.provider for spec in catalogue.in_group(group.name) if not spec.exported}):
        try:
            families.provider(name).prepare()
        except Exception as cause:
            log.error("family_not_imported", provider=name, why=f"{type(cause).__name__}: {cause}")


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


async def _engine(settings: Settings, catalogue: Catalogue, group: GroupSpec, *, index: int, folder: Path) -> None:
    """Serves until SIGTERM, or until the zygote is gone."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    lifeline.hold(grace_s=settings.runner.drain_timeout_s)
    watching = asyncio.create_task(watch_loop())
    async with contextlib.AsyncExitStack() as stack:
        open_tracing(settings, stack, process="engine")
        host = runner_host(settings, catalogue, group, index=index, folder=folder)
        await host.start()
        await stopping.wait()
        await host.stop()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
