"""Many questions to a store, so many at a time; all pages of a list; a change that others come before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.pages import MOST, ModelQuery, Page, Paging, VersionQuery
from modelmora.errors import Conflict, NotFound, PreconditionFailed

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")
E = TypeVar("E", Model, ModelVersion)
Q = TypeVar("Q", ModelQuery, VersionQuery)

AT_ONCE = 16
TRIES = 5
"""Of a change, where somebody else changes an entry meanwhile."""


async def together(ask: Callable[[T], Awaitable[U]], of: Iterable[T], *, at_once: int = AT_ONCE) -> list[U]:
    """The answers in the order of the questions; the first error ends all of it."""
    waiting, answers = enumerate(list(of)), dict[int, U]()

    async def work() -> None:
        for place, one in waiting:
            answers[place] = await ask(one)

    workers = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [answers[place] for place in sorted(answers)]


async def added(adding: Awaitable[None], made: E, find: Callable[[], Awaitable[E]]) -> E:
    """What was made, once it is added; what there is, where it was added under the same id before.

    Raises what adding raises.
    """
    try:
        await adding
    except Conflict:
        with suppress(NotFound):
            there = await find()
            if there.id == made.id:
                return there
        raise
    return made


async def everything(find: Callable[[Q], Awaitable[Page[T]]], query: Q) -> AsyncIterator[T]:
    """All that matches, page by page."""
    while True:
        page = await find(replace(query, page=replace(query.page, limit=MOST)))
        for item in page.items:
            yield item
        if page.next_cursor is None:
            return
        query = replace(query, page=Paging(cursor=page.next_cursor))


def whatever(change: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A change of an entry as it was read, where it is given a `row`; without one, of the entry as it is: then it is
    tried anew as often as somebody else is quicker, and raises Conflict where that does not end."""

    @wraps(change)
    async def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES):
            try:
                return await change(*args, **kwargs)
            except PreconditionFailed:
                if kwargs.get("row") is not None:
                    raise
        raise Conflict("the entry keeps being changed by others; ask again", retry_after_s=1.0)

    return tried
