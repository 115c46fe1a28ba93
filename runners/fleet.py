"""All live runner workers of all groups, found by listing their sockets, and work shared among them."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed
from modelmora.errors import DeadlineExceeded, DependencyUnavailable
from modelmora.ports import WorkerView
from runners.link import Link, Open, close_all

log = structlog.get_logger(__name__)

DISCOVERY_S = 1.0
SHUN_S = 0.5
"""A socket that just failed is not tried again for so long: its process may be dead and not yet reaped."""


class Fleet:
    """Sends items to workers, and to another one when a worker dies; each item ends by its deadline.

    `directories` maps each group to the folder its workers bind their sockets in.
    """

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)
        self._links: dict[Path, Link] = {}
        self._waiting: dict[int, Open] = {}
        self._shunned: dict[Path, float] = {}
        self._ids = itertools.count(1)
        self._look = asyncio.Event()
        self.changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look for workers."""
        self._task = asyncio.create_task(self._discover())

    async def close(self) -> None:
        """Closes all links; what is still open is answered `dependency_unavailable`."""
        if self._task is not None:
            self._task.cancel()
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
        link = self._choose(item.group, item.work.model)
        if link is None:
            self._waiting[item.work.id] = item
            self._look.set()
        else:
            link.send(item)

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

    def _choose(self, group: str, model: str) -> Link | None:
        """The least loaded worker that holds the model, else the least loaded, most roomy one."""
        links = self.links(group)
        holders = [link for link in links if _holds(link, model)]
        return min(holders or links, key=lambda link: (len(link.open), -_room(link)), default=None)

    async def _discover(self) -> None:
        while True:
            self._look.clear()
            self._scan()
            try:
                async with asyncio.timeout(DISCOVERY_S):
                    await self._look.wait()
                await asyncio.sleep(0.05)  # asked for by many at once: look at most twenty times a second
            except TimeoutError:
                continue

    def _scan(self) -> None:
        for group, directory in self._directories.items():
            for socket in directory.glob(f"{group}-*-*.sock"):
                if socket not in self._links and self._shunned.get(socket, 0.0) <= time.monotonic():
                    self._greet(socket)

    def _greet(self, socket: Path) -> None:
        link = Link(socket, on_change=self._changed, on_lost=self._lost)
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
                item.work.timeout_ms = max(0.0, (item.deadline - time.monotonic()) * 1e3)
                item.link = None
                self.dispatch(item)
        self._changed()


def expire(item: Open) -> None:
    """Answers an item whose time is over."""
    item.answer(Failed(DeadlineExceeded("the deadline passed before a runner answered")))


def _holds(link: Link, model: str) -> bool:
    holding = link.view.holdings.get(model) if link.view else None
    return holding is not None and holding.state == "loaded"


def _room(link: Link) -> int:
    return link.view.budget_bytes - link.view.held_bytes if link.view else 0


def _sweep(socket: Path) -> None:
    """Removes the socket of a process that is gone, so that nobody calls it again."""
    pid = int(socket.stem.rpartition("-")[2])
    if not _alive(pid):
        socket.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process: it is there
        return True
    return True
