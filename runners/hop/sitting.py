"""One picture and the questions about it: its pixels cross the hop only to a runner that does not know them."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from modelmora.domain.inference import Image, Timings
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Preprocess
from modelmora.domain.progress import Step
from modelmora.errors import ArtifactCorrupt, DeadlineExceeded, ModelLoadFailed, ModelMoraError, OutOfMemory
from modelmora.proto import runner_pb2 as pb
from runners.hop import wire
from runners.hop.errands import Errand, Errands
from runners.inputs.prompts import Picture, is_unknown
from runners.payload import Answer, Parcel
from runners.preprocess import prepare_sized

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 2
"""Questions under way at once: while one is on its way the next is computed."""

TOGETHER = 8
"""Prompts sent together: few enough that masks come soon, enough that the hop costs nothing beside them."""

MASK_SHARE = 4
"""The small masks' side is a quarter of the scaled picture's."""

T = TypeVar("T")
Asking: TypeAlias = Callable[[Picture], Parcel]


class Sitting:
    """A picture from its first question to its last. `fresh`: no runner is thought to know it.

    Once an error says that it is about the picture or the model, every other question has it for an answer.
    """

    def __init__(self, errands: Errands, errand: Errand, image: Image, how: Preprocess) -> None:
        self.errand = errand
        self.fresh = True
        self.size = (0, 0)
        self.mask_side = how.height // MASK_SHARE
        self._errands = errands
        self._image = image
        self._how = how
        self._digest = b""
        self._name = secrets.token_hex(6)
        self._pixels: NDArray[np.uint8] | None = None
        self._decoding = asyncio.Lock()
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._preprocess_ms = 0.0
        self._over: ModelMoraError | None = None

    async def begin(self, known: OrderedDict[bytes, tuple[int, int]]) -> None:
        """Learns its size: from `known`, by digest, or by decoding it. Raises what is wrong with the picture."""
        self._known = known
        self._digest = await self._in_thread(partial(_digest, self._image.data, self._how, self.errand.model.key))
        if self._digest in known:
            known.move_to_end(self._digest)
            self.size, self.fresh = known[self._digest], False
        else:
            await self._decoded()

    async def ask(
        self, asking: Asking, *, more: bool = False, watch: Callable[[Step], None] | None = None
    ) -> Outcome[tuple[Parcel, Timings]]:
        """With the pixels at first, and again where the runner does not know them (any more).

        `more`: further questions follow, for which the runner is to keep the picture.
        """
        if self._over is not None:
            return Failed(self._over)
        outcome = await self._send(asking, await self._decoded() if self.fresh else None, more, watch)
        if isinstance(outcome, Ok) and is_unknown(_parcel(outcome.value)):
            outcome = await self._send(asking, await self._decoded(), more, watch)
        if isinstance(outcome, Failed):
            if _concerns_all(outcome.error):
                self._over = outcome.error
            return outcome
        self._known[self._digest], self.fresh = self.size, False
        return Ok((_parcel(outcome.value), replace(outcome.value.timings, preprocess_ms=self._preprocess_ms)))

    async def in_turn(self, work: Callable[[], T]) -> T:
        """In the decode threads; raises DeadlineExceeded at the sitting's, when the work has not begun or not ended."""
        call = self.errand.call
        try:
            async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
                return await self._errands.in_turn(call.priority == "bulk", work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the masks were looked through") from None

    async def _send(
        self,
        asking: Asking,
        pixels: NDArray[np.uint8] | None,
        more: bool,
        watch: Callable[[Step], None] | None,
    ) -> Outcome[Answer]:
        picture = Picture(digest=self._digest, size=self.size, pixels=pixels, more=more, sitting=self._name)

        async def prepare(work: pb.Work) -> None:
            work.parcel.CopyFrom(wire.parcel_to_wire(asking(picture)))

        return await self._errands.run(self.errand, prepare, watch=watch, affinity=self._digest)

    async def _decoded(self) -> NDArray[np.uint8]:
        """The scaled pixels, once however many questions need them."""
        async with self._decoding:
            if self._pixels is not None:
                return self._pixels
            limit = self._errands.settings.max_pixels
            prepare = partial(prepare_sized, self._image.data, self._how, max_pixels=limit)
            pixels, self.size = await self._in_thread(prepare)
            self._pixels = pixels
            return pixels

    async def _in_thread(self, work: Callable[[], T]) -> T:
        started = time.monotonic()
        done = await self._errands.in_turn(self.errand.call.priority == "bulk", work)
        self._preprocess_ms += (time.monotonic() - started) * 1e3
        return done


async def in_window(
    works: Sequence[Callable[[], Awaitable[T]]], *, first_alone: bool = False, width: int = WINDOW
) -> AsyncGenerator[T, None]:
    """What each gives, as they come, `width` at a time and the first one perhaps alone; raises what one raises.

    Who stops taking stops the works; what is under way then is cancelled.
    """
    waiting = list(reversed(works))
    running = set[asyncio.Task[T]]()
    limit = 1 if first_alone else width
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.add(asyncio.ensure_future(_run(waiting.pop())))
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            limit = width
            for task in done:
                yield task.result()
                running.discard(task)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _concerns_all(error: ModelMoraError) -> bool:
    """Whether every question about this picture would fail so, each after loading or encoding again."""
    broken = isinstance(error, OutOfMemory | ModelLoadFailed | ArtifactCorrupt) and error.field != "prompts"
    return broken or error.field == "image"


def _parcel(answer: Answer) -> Parcel:
    return cast(Parcel, answer.body)


def _digest(data: bytes, how: Preprocess, model: str) -> bytes:
    """Of what the pixels follow from, and of which model's they are."""
    seen = hashlib.sha256(f"{model} {how!r} ".encode())
    seen.update(data)
    return seen.digest()
