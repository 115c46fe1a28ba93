"""All live runner workers of all groups, found by listing their sockets, and work shared among them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import grpc
import structlog

from modelmora.domain.models import ModelSpec, State
from modelmora.domain.outcome import Failed
from modelmora.errors import DeadlineExceeded, DependencyUnavailable, InternalError
from modelmora.ports import Footprint, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.telemetry import forget
from runners.hop import wire
from runners.hop.link import Link, Open, close_all

log = structlog.get_logger(__name__)

DISCOVERY_S = 1.0
SHOWN_S = 2.0
WANTED_S = 0.1
"""Between looks while somebody waits for a worker to come."""

SHUN_S = 0.5
"""A socket that just failed is not tried again for so long: its process may be dead and not yet reaped."""

SPREAD_ITEMS = 32
"""So many open items at the worker of a model justify another worker that holds it."""

SPREAD_S = 5.0
"""Between two attempts at that."""

SPREAD_LOAD_S = 600.0
"""The longest such a load may take."""


class Fleet:
    """Sends items to workers, and to another one when a worker dies; each item ends by its deadline.

    `directories` maps each group to the folder its workers bind their sockets in; `known` are the footprints
    that the workers of a group are told when they are found.
    """

    def __init__(
        self,
        directories: Mapping[str, Path],
        *,
        known: Callable[[str], Awaitable[Sequence[Footprint]]] | None = None,
    ) -> None:
        self._directories = dict(directories)
        self._known = known
        self._links: dict[Path, Link] = {}
        self._waiting: dict[int, Open] = {}
        self._shunned: dict[Path, float] = {}
        self._ids = itertools.count(1)
        self._look = asyncio.Event()
        self.changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._spreading: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begins to look for workers."""
        self._task = asyncio.create_task(self._discover())

    async def close(self) -> None:
        """Closes all links; what is still open is answered `dependency_unavailable`."""
        for task in (self._task, *self._spreading.values()):
            if task is not None:
                task.cancel()
        links, self._links = list(self._links.values()), {}
        items = [item for link in links for item in link.open.values()] + list(self._waiting.values())
        for item in items:
            item.answer(Failed(DependencyUnavailable("this API worker is shutting down", retry_after_s=1.0)))
        await close_all(links)

    def next_id(self) -> int:
        """A number for the next item, unique in this process."""
        return next(self._ids)

    def workers(self) -> Sequence[WorkerView]:
        """The workers that have said hello."""
        return [link.view for link in self._links.values() if link.view is not None]

    def links(self, group: str) -> Sequence[Link]:
        """The live links of a group."""
        return [link for link in self._links.values() if link.view is not None and link.view.group == group]

    def dispatch(self, item: Open) -> None:
        """To the best worker there is, or to the first that comes."""
        link = self._choose(item.model.group, item.work.model, item.affinity)
        if link is None:
            self._waiting[item.work.id] = item
            self._look.set()
        else:
            link.send(item)
            if len(link.open) >= SPREAD_ITEMS and item.work.model not in self._spreading:
                self._spread(link, item)

    def leave(self, item: Open) -> None:
        """The caller is gone."""
        self._waiting.pop(item.work.id, None)
        if item.link is not None:
            item.link.leave(item)

    async def any_link(self, model: ModelSpec, *, deadline: float) -> Link:
        """A live worker of the model's group, waited for; raises DependencyUnavailable at the deadline."""
        while True:
            link = self._choose(model.group, model.key)
            if link is not None:
                return link
            await self._wait_change(deadline, model.group)

    async def shows(self, link: Link, model: str, state: State) -> None:
        """Waits until a worker's view says what the worker answered: whoever asks next must not be told otherwise."""
        until = time.monotonic() + SHOWN_S
        while link.view is not None and time.monotonic() < until:
            holding = link.view.holdings.get(model)
            if (holding.state if holding else "unloaded") == state:
                return
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self.changed.wait()

    async def _wait_change(self, deadline: float, group: str) -> None:
        self._look.set()
        self.changed.clear()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.changed.wait()
        except TimeoutError:
            raise DependencyUnavailable(
                f"no runner of group {group!r} is up; it comes back by itself, retry", retry_after_s=5.0
            ) from None

    def _choose(self, group: str, model: str, affinity: bytes = b"") -> Link | None:
        """The least loaded worker that holds the model, else one that is about to, else the most roomy one.

        With an affinity, of those that hold the model the one that it points to: while they are the same, always the
        same one, and when one goes only what pointed to it moves (rendezvous hashing, Thaler and Ravishankar 1996).
        """
        nearest = min(self.links(group), key=lambda link: _distance(link, model), default=None)
        if nearest is None or not affinity or _distance(nearest, model)[0]:
            return nearest
        holders = [link for link in self.links(group) if not _distance(link, model)[0]]
        return max(holders, key=lambda link: _weight(link, affinity))

    def _spread(self, link: Link, item: Open) -> None:
        """Lets one more worker load the item's model, where it has room without making another model go.

        No item waits for that: work goes there once the model is loaded.
        """
        model = item.work.model
        held = link.view.holdings.get(model) if link.view else None
        if held is None or held.state != "loaded":
            return
        others = [each for each in self.links(item.model.group) if _could_help(each, model, held.bytes)]
        if others:
            task = asyncio.create_task(_bring(min(others, key=lambda each: len(each.open)), item.model))
            self._spreading[model] = task
            task.add_done_callback(lambda _: self._spreading.pop(model, None))

    async def _discover(self) -> None:
        while True:
            self._look.clear()
            self._scan()
            try:
                async with asyncio.timeout(WANTED_S if self._waiting else DISCOVERY_S):
                    await self._look.wait()
                await asyncio.sleep(0.05)  # asked for by many at once: look at most twenty times a second
            except TimeoutError:
                continue

    def _scan(self) -> None:
        for group, directory in self._directories.items():
            for socket in directory.glob(f"{group}-*-*.sock"):
                if socket not in self._links and self._shunned.get(socket, 0.0) <= time.monotonic():
                    self._greet(group, socket)

    def _greet(self, group: str, socket: Path) -> None:
        known = self._known and partial(self._known, group)
        link = Link(socket, on_change=self._changed, on_lost=self._lost, known=known)
        self._links[socket] = link
        link.start()

    def _changed(self) -> None:
        self.changed.set()
        if self._waiting:
            items, self._waiting = list(self._waiting.values()), {}
            for item in items:
                self.dispatch(item)

    def _lost(self, link: Link) -> None:
        """Forgets the worker, removes its socket when its process is gone, gives its work to others."""
        self._links.pop(link.socket, None)
        self._shunned[link.socket] = time.monotonic() + SHUN_S
        _sweep(link.socket)
        items, link.open = list(link.open.values()), {}
        for item in items:
            if not item.future.done():
                self._again(item)
        self._changed()

    def _again(self, item: Open) -> None:
        """Inference is idempotent: another worker tries, unless the item is what ends workers."""
        if item.lost():
            log.error("item_ends_workers", model=item.work.model, task=item.work.task, times=item.deaths)
            said = f"the runner ended {item.deaths} times while it computed this item; it is not tried again"
            return item.answer(Failed(InternalError(said)))
        item.work.timeout_ms = max(0.0, (item.deadline - time.monotonic()) * 1e3)
        self.dispatch(item)


def expire(item: Open) -> None:
    """Answers an item whose time is over."""
    item.answer(Failed(DeadlineExceeded("the deadline passed before a runner answered")))


def _distance(link: Link, model: str) -> tuple[int, int, int]:
    """How far a worker is from answering: a model on its way is not brought in a second time elsewhere.

    Among holders the least outstanding; among those who would have to load, the most room.
    """
    holding = link.view.holdings.get(model) if link.view else None
    state = holding.state if holding else "unloaded"
    outstanding = max(len(link.open), link.view.queued if link.view else 0)
    if state == "loaded":
        return 0, outstanding, 0
    if state == "loading" or link.asked_for(model):
        return 1, outstanding, 0
    room = link.view.budget_bytes - link.view.held_bytes if link.view else 0
    return 2, -room, outstanding


def _weight(link: Link, affinity: bytes) -> bytes:
    return hashlib.blake2b(affinity, digest_size=8, key=link.socket.stem.encode()[:64]).digest()


def _could_help(link: Link, model: str, size: int) -> bool:
    """Whether the worker is less busy and would hold the model beside what it has."""
    view = link.view
    if view is None or len(link.open) >= SPREAD_ITEMS:
        return False
    held = view.holdings.get(model)
    if held is not None and held.state not in ("unloaded", "failed"):
        return False
    return not view.budget_bytes or view.budget_bytes - view.held_bytes >= size


async def _bring(link: Link, model: ModelSpec) -> None:
    """Asks the worker to load the model; that it cannot is in its own log."""
    log.info("model_spreads", model=model.name, version=model.version, worker=link.socket.stem)
    request = pb.ModelRequest(model=model.key, timeout_ms=SPREAD_LOAD_S * 1e3, spec=wire.spec_to_wire(model))
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await link.stub.Load(request, timeout=SPREAD_LOAD_S)
    await asyncio.sleep(SPREAD_S)


def _sweep(socket: Path) -> None:
    """Removes what a process that is gone left: its socket, so that nobody calls it again, and its gauges."""
    pid = int(socket.stem.rpartition("-")[2])
    if not _alive(pid):
        socket.unlink(missing_ok=True)
        forget(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process: it is there
        return True
    return True
