"""The API's side of inference: decodes and tokenises here, batches there, one outcome per item."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from modelmora.domain.capability import cannot
from modelmora.domain.classification import Scores
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Text, Vector
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.ports import Watch
from modelmora.proto import runner_pb2 as pb
from runners.hop.errands import Errand, Errands
from runners.inputs.tokenizer import prepare_text
from runners.payload import Answer
from runners.preprocess import prepare_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORT_TEXT = 256
"""Texts up to so many characters are tokenised on the loop: a hop to a thread would cost more."""

One = Callable[[int], Awaitable["Outcome[Answer]"]]


class RunnerInference:
    """Implements the ports Describer, Embedder and Classifier over a fleet of runner workers."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        return await self._errands.describe(model, deadline=deadline)

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        with self._errands.permit(len(items)):
            errand = Errand(model, task, await self.describe(model, deadline=call.deadline), call)
            ones = [self._embed_one(errand, item, watch and partial(watch, i)) for i, item in enumerate(items)]
            return [await ones[0]] if len(ones) == 1 else await asyncio.gather(*ones)

    async def classify(
        self, model: ModelSpec, items: Sequence[Image], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Scores]]:
        with self._errands.permit(len(items)):
            errand = Errand(model, "classify", await self.describe(model, deadline=call.deadline), call)
            ones = [self._classify_one(errand, item, watch and partial(watch, i)) for i, item in enumerate(items)]
            return [await ones[0]] if len(ones) == 1 else await asyncio.gather(*ones)

    async def _embed_one(
        self, errand: Errand, item: Content, watch: Callable[[Step], None] | None
    ) -> Outcome[Embedded]:
        tokens = 0

        async def prepare(work: pb.Work) -> None:
            nonlocal tokens
            match item:
                case Image(data):
                    await self._pixels(work, errand, data)
                case Text(text):
                    await self._tokens(work, errand, text)
                    tokens = _count_tokens(work)

        outcome = await self._errands.run(errand, prepare, watch=watch)
        if isinstance(outcome, Failed):
            return outcome
        return Ok(Embedded(Vector(cast(bytes, outcome.value.body)), outcome.value.timings, tokens=tokens))

    async def _classify_one(self, errand: Errand, item: Image, watch: Callable[[Step], None] | None) -> Outcome[Scores]:
        outcome = await self._errands.run(errand, lambda work: self._pixels(work, errand, item.data), watch=watch)
        if isinstance(outcome, Failed):
            return outcome
        return Ok(Scores(Vector(cast(bytes, outcome.value.body)), outcome.value.timings))

    async def _pixels(self, work: pb.Work, errand: Errand, data: bytes) -> None:
        how, limit = errand.description.image, self._errands.settings.max_pixels
        if how is None:
            raise cannot(errand.model, errand.task, errand.description)
        array = await self._errands.in_turn(work.bulk, lambda: prepare_image(data, how, max_pixels=limit))
        work.data, work.shape[:] = array.tobytes(), array.shape

    async def _tokens(self, work: pb.Work, errand: Errand, text: str) -> None:
        how, truncate = errand.description.text, errand.call.truncate
        if how is None:
            raise cannot(errand.model, errand.task, errand.description)

        def prepare() -> NDArray[np.generic]:
            return prepare_text(text, how, truncate=truncate, max_chars=self._errands.settings.max_text_chars)

        array = prepare() if len(text) <= SHORT_TEXT else await self._errands.in_turn(work.bulk, prepare)
        work.data = array.tobytes()
        work.truncate, work.tokenize = truncate, how.tokenizer == "runner"
        if how.tokenizer == "clip-bpe":
            work.shape[:] = array.shape


def _count_tokens(work: pb.Work) -> int:
    """How many token ids are not padding; 0 for raw bytes."""
    return sum(map(bool, memoryview(work.data).cast("i"))) if work.shape else 0
