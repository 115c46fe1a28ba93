"""The client's half of indexes: looked at, filled anew, switched, let go of; always REST."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from modelmora.client.control import Control, mapping
from modelmora.client.kept import IndexInfo, index_info
from modelmora.domain.models import ModelRef
from modelmora.errors import DeadlineExceeded, InternalError, WrongState

SWITCH_TIMEOUT_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
PATH = "/api/v1/indexes"

OnIndex = Callable[[IndexInfo], None]


@dataclass(frozen=True, slots=True)
class Indexes:
    """Indexes by their `name@version`; raises ModelNotFound for one that is not there."""

    control: Control
    sleep: Callable[[float], Awaitable[None]]

    async def list(self, *, collection: str | None = None) -> tuple[IndexInfo, ...]:
        """All of them, or those of a collection."""
        params = {} if collection is None else {"collection": collection}
        told = mapping(await self.control.ask("GET", PATH, params=params))
        return tuple(map(index_info, told.get("data") or ()))

    async def get(self, ref: str, *, collection: str = "default") -> IndexInfo:
        """How far it is."""
        return index_info(await self.control.ask("GET", _path(ref), params={"collection": collection}))

    async def switch(self, ref: str, *, collection: str = "default", timeout: float = SWITCH_TIMEOUT_S) -> IndexInfo:
        """Searches go to it from now on; the one before is kept for an hour, for the way back.

        Raises WrongState for one that is not complete.
        """
        told = await self.control.ask(
            "POST", f"{_path(ref)}/switch", params={"collection": collection}, timeout=timeout
        )
        return index_info(told)

    async def drop(self, ref: str, *, collection: str = "default", timeout: float = SWITCH_TIMEOUT_S) -> None:
        """Raises WrongState for the one that searches go to."""
        await self.control.ask("DELETE", _path(ref), params={"collection": collection}, timeout=timeout, again=False)

    async def begin(
        self, model: str, *, version: str | None, collection: str, switch: bool, timeout: float | None = None
    ) -> IndexInfo:
        """As `Client.reindex` without waiting."""
        body: dict[str, Any] = {"collection": collection, "switch": switch}
        body |= {} if version is None else {"version": version}
        path = f"/api/v1/models/{_ref(model)}/reindex"
        return index_info(await self.control.ask("POST", path, body=body, timeout=timeout))

    async def complete(self, index: IndexInfo, *, switch: bool, timeout: float, tell: OnIndex) -> IndexInfo:
        """The index once it is complete, and with `switch` once searches go to it.

        Raises InternalError where it was given up, WrongState where somebody let go of it, DeadlineExceeded.
        """
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE_S
        while not _through(index, switch=switch):
            tell(index)
            if time.monotonic() + pause > deadline:
                said = f"{index.key} is {index.state}, {index.done} of {index.total}; the server goes on"
                raise DeadlineExceeded(said)
            await self.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
            index = await self.get(index.key, collection=index.collection)
        tell(index)
        return index


def _through(index: IndexInfo, *, switch: bool) -> bool:
    match index.state:
        case "live":
            return True
        case "ready":
            return not switch
        case "failed":
            raise InternalError(f"the index of {index.key} was given up: {index.why or 'the reason is in the log'}")
        case "draining" | "dropped":
            raise WrongState(f"somebody let go of the index of {index.key}", field="state", found=index.state)
    return False


def _path(ref: str) -> str:
    return f"{PATH}/{_ref(ref)}"


def _ref(ref: str) -> str:
    return quote(str(ModelRef.parse(ref)), safe="@")
