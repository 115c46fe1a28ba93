"""Any number of pictures to keep, in bounded memory: so many or so many bytes together are one upload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import LimitExceeded, ModelMoraError
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.pictures.arrivals import Arrival, Terms
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.upload import Upload

WINDOW_ITEMS, WINDOW_BYTES = 64, 32 * 2**20
"""One upload at most: a few batches' worth, and what one picture of the largest kind takes."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of the picture `index` of a stream."""

    index: int
    outcome: Outcome[Kept]


class UploadStream:
    """Several uploads one after the other; the next is read when the one before is done."""

    def __init__(
        self, upload: Upload, decoding: Decoding, *, window_items: int = WINDOW_ITEMS, window_bytes: int = WINDOW_BYTES
    ) -> None:
        self._upload = upload
        self._decoding = decoding
        self._window_items = min(window_items, upload.limits.items)
        self._window_bytes = window_bytes

    async def __call__(
        self,
        arrivals: AsyncGenerator[Arrival, None],
        terms: Callable[[], Terms],
        *,
        call: Call,
        most: int,
        linger_s: float | None = None,
    ) -> AsyncGenerator[list[Uploaded], None]:
        """The outcomes, a window at a time and in order. `terms` are asked for when the first window is whole.

        With `linger_s` a window is whole as well when nothing has come for so long: who waits for an answer before it
        sends more is answered. Raises what `arrivals` raises, LimitExceeded for more than `most`, and what keeps the
        first window from being taken; of later ones that is their pictures' error.
        """
        done, agreed = 0, None
        async with aclosing(self._windows(arrivals, linger_s)) as windows:
            async for window in windows:
                if done + len(window) > most:
                    found, expected = f"more than {most}", f"at most {most}"
                    said = "too many pictures in one upload"
                    raise LimitExceeded(said, field="files", found=found, expected=expected)
                agreed = agreed or terms()
                told = [agreed.of(arrival, done + place) for place, arrival in enumerate(window)]
                outcomes = await self._kept(told, agreed, call, first=done == 0)
                yield [Uploaded(done + place, outcome) for place, outcome in enumerate(outcomes)]
                done += len(window)

    async def _kept(self, window: list[Arrival], terms: Terms, call: Call, *, first: bool) -> list[Outcome[Kept]]:
        try:
            with self._decoding.admitted(sum(arrival.size for arrival in window)):
                return await self._upload(window, terms, call=call)
        except ModelMoraError as error:
            if first:
                raise
            return [Failed(error) for _ in window]

    async def _windows(
        self, arrivals: AsyncGenerator[Arrival, None], linger_s: float | None
    ) -> AsyncGenerator[list[Arrival], None]:
        window: list[Arrival] = []
        coming = asyncio.ensure_future(anext(arrivals))
        try:
            while True:
                await asyncio.wait({coming}, timeout=linger_s if window else None)
                if coming.done():
                    try:
                        window.append(coming.result())
                    except StopAsyncIteration:
                        break
                    coming = asyncio.ensure_future(anext(arrivals))
                    if not self._full(window):
                        continue
                yield window
                window = []
            if window:
                yield window
        finally:
            await _ended(coming, arrivals)

    def _full(self, window: list[Arrival]) -> bool:
        size = sum(arrival.size for arrival in window)
        return len(window) >= self._window_items or size >= self._window_bytes


async def _ended(coming: asyncio.Future[Arrival], arrivals: AsyncGenerator[Arrival, None]) -> None:
    """Nothing more is read."""
    coming.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await coming
    await arrivals.aclose()
