"""The client's half of dead letters: what the server gave up, why, and the way back; always REST."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from modelmora.client.control import Control
from modelmora.client.kept import DeadLetterInfo, counted, dead_letter_info
from modelmora.client.paging import pages
from modelmora.errors import ValidationFailed

REPLAY_TIMEOUT_S = 600.0
PATH = "/api/v1/dead-letters"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters by their ids; raises NotFound for one that is not there."""

    control: Control

    async def list(self, *, code: str | None = None) -> AsyncGenerator[DeadLetterInfo, None]:
        """All of them, or those of an error's code, over all pages, the newest first."""
        params = {} if code is None else {"code": code}
        async with aclosing(pages(self.control, PATH, params)) as entries:
            async for entry in entries:
                yield dead_letter_info(entry)

    async def get(self, id: str) -> DeadLetterInfo:
        """One, with the message as it came."""
        return dead_letter_info(await self.control.ask("GET", _path(id)))

    async def replay(
        self, *ids: str, code: str | None = None, all: bool = False, timeout: float = REPLAY_TIMEOUT_S
    ) -> int:
        """They are taken in anew, with all their tries: those of the ids, of an error's code, or all; how many.

        Raises ValidationFailed unless exactly one of these is said.
        """
        if bool(ids) + (code is not None) + all != 1:
            expected = "ids, or code, or all=True"
            raise ValidationFailed("it is not said which letters", field="ids", expected=expected)
        body: dict[str, Any] = {"ids": [*ids]} if ids else {"all": True} if all else {"code": code}
        return counted(
            await self.control.ask("POST", f"{PATH}/replay", body=body, timeout=timeout, again=False), "replayed"
        )

    async def remove(self, id: str) -> None:
        """It is forgotten; the picture stays as it is."""
        await self.control.ask("DELETE", _path(id), again=False)


def _path(id_: str) -> str:
    """Raises ValidationFailed for what would be another path."""
    if not isinstance(id_, str) or not id_.strip(".") or not id_.isprintable():
        raise ValidationFailed("not the id of a dead letter", field="id", found=repr(id_)[:80], expected="its id")
    return f"{PATH}/{quote(id_, safe='')}"
