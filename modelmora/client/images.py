"""The client's half of kept pictures: looked up, listed, taken home, removed; always REST."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from modelmora.client.control import Control
from modelmora.client.kept import ImageInfo, counted, image_info
from modelmora.client.paging import pages
from modelmora.domain.pictures.picture import PictureState
from modelmora.errors import DeadlineExceeded, ValidationFailed

REMOVAL_TIMEOUT_S = 600.0
SETTLED = frozenset({"indexed", "failed", "deleted"})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
PATH = "/v1/images"


@dataclass(frozen=True, slots=True)
class Images:
    """Kept pictures by their ids; raises ImageNotFound for one that is not there."""

    control: Control
    sleep: Callable[[float], Awaitable[None]]

    async def get(self, id: str) -> ImageInfo:
        """What is known of a picture, and how far it is on its way into each index."""
        return image_info(await self.control.ask("GET", _path(id)))

    async def list(
        self,
        *,
        collection: str | None = None,
        state: PictureState | None = None,
        tags: Sequence[str] = (),
        sha256: str | None = None,
        created_before: datetime | None = None,
    ) -> AsyncGenerator[ImageInfo, None]:
        """Pictures of which all that is given holds (of `tags` one), over all pages, the newest first."""
        params = _query(collection, state, sha256, created_before) | {"tag": _tags(tags)}
        async with aclosing(pages(self.control, PATH, params)) as entries:
            async for entry in entries:
                yield image_info(entry)

    async def content(self, id: str, *, timeout: float | None = None) -> bytes:
        """The bytes as they were brought."""
        return await self._bytes(f"{_path(id)}/content", timeout)

    async def thumbnail(self, id: str, *, timeout: float | None = None) -> bytes:
        """A WebP of 256 pixels at most."""
        return await self._bytes(f"{_path(id)}/thumbnail", timeout)

    async def settled(self, id: str, *, timeout: float = 60.0) -> ImageInfo:
        """Its record once it is indexed, or failed; raises DeadlineExceeded, which stops only the waiting."""
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE_S
        while (found := await self.get(id)).state not in SETTLED:
            if time.monotonic() + pause > deadline:
                raise DeadlineExceeded(f"{id} is {found.state} after {timeout:g} s; the server goes on")
            await self.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
        return found

    async def delete(self, id: str) -> None:
        """Everywhere: the record, the vectors, the bytes, what waits and what was given up."""
        await self.control.ask("DELETE", _path(id), again=False)

    async def delete_many(
        self,
        ids: Sequence[str] | None = None,
        *,
        collection: str | None = None,
        state: PictureState | None = None,
        tags: Sequence[str] = (),
        sha256: str | None = None,
        created_before: datetime | None = None,
        timeout: float = REMOVAL_TIMEOUT_S,
    ) -> int:
        """Those of the ids, or all of which what is given holds (of `tags` one); how many there were.

        Raises ValidationFailed where it is not said which.
        """
        body: dict[str, Any] = _query(collection, state, sha256, created_before)
        body |= {"tags": _tags(tags)} if tags else {}
        body |= {} if ids is None else {"ids": _tags(ids)}
        told = await self.control.ask("POST", f"{PATH}/delete", body=body, timeout=timeout, again=False)
        return counted(told, "removed")

    async def _bytes(self, path: str, timeout: float | None) -> bytes:
        response = await self.control.response("GET", path, timeout=timeout)
        return response.content


def _path(id_: str) -> str:
    """Raises ValidationFailed for what would be another path."""
    if not isinstance(id_, str) or not id_.strip(".") or not id_.isprintable():
        raise ValidationFailed("not the id of a picture", field="id", found=repr(id_)[:80], expected="its id")
    return f"{PATH}/{quote(id_, safe='')}"


def _query(collection: str | None, state: str | None, sha256: str | None, before: datetime | None) -> dict[str, Any]:
    told = {"collection": collection, "state": state, "sha256": sha256}
    given: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    return given if before is None else given | {"created_before": before.isoformat()}


def _tags(given: Sequence[str]) -> list[str]:
    """Raises ValidationFailed where one stands for a list, which its letters would be."""
    if isinstance(given, str):
        raise ValidationFailed("this is no list", field="tags", found="a str", expected="a list of str")
    return [*given]
