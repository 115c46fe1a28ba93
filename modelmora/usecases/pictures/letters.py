"""Dead letters, as doors ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelmora.domain.registry.pages import Page, Paging
from modelmora.ports import DeadLetter, DeadLetters
from modelmora.ports.pictures import NEWEST_FIRST

PAGE = 500


class Letters:
    """What was given up, and the way back."""

    def __init__(self, letters: DeadLetters, *, source: str, nudge: Callable[[], None] = lambda: None) -> None:
        self._letters = letters
        self._source = source
        self._nudge = nudge

    async def find(self, *, code: str | None = None, page: Paging = NEWEST_FIRST) -> Page[DeadLetter]:
        """The newest first."""
        return await self._letters.find(code=code, page=page)

    async def get(self, id_: str) -> DeadLetter:
        """Raises ImageNotFound."""
        return await self._letters.get(id_)

    async def replay(self, ids: Sequence[str]) -> int:
        """How many there were: they are taken in anew with all their tries."""
        count = await self._letters.replay(ids, source=self._source)
        self._nudge()
        return count

    async def replay_all(self, *, code: str | None = None) -> int:
        """Those that were not replayed yet."""
        count, cursor = 0, None
        while True:
            page = await self._letters.find(code=code, page=Paging(limit=PAGE, cursor=cursor, descending=True))
            count += await self.replay([letter.id for letter in page.items if letter.replayed_at is None])
            cursor = page.next_cursor
            if cursor is None:
                return count

    async def remove(self, ids: Sequence[str]) -> int:
        """How many there were."""
        return await self._letters.remove(ids)
