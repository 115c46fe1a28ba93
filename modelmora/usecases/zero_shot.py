"""Pictures beside the labels that a caller names: likenesses of vectors, as logits.

The recipe is open_clip's (`zero_shot_classifier.py`): the mean of the normalised vectors, normalised again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from modelmora.domain.classification import Scores
from modelmora.domain.description import Description, Scoring
from modelmora.domain.inference import Call, Embedded, Image, Text, Vector
from modelmora.domain.labels import PLACE, LabelSet, refused
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DeadlineExceeded, InputError, InternalError, LimitExceeded, ValidationFailed
from modelmora.ports import Embedder, Watch
from modelmora.usecases.admission import Admission
from modelmora.usecases.single_flight import KeptArrays

KEPT_BYTES = 64 * 2**20
TURN = 32
"""After so many pictures others get their turn on the event loop: a thousand labels take 0.1 ms a picture."""
AT_ONCE = 64
"""So many texts are asked for together: a long list must not fill the queues."""


class ZeroShot:
    """A model that embeds pictures and texts, as a classifier.

    The labels' vectors are made once for each version and set of labels, and kept.
    """

    def __init__(self, admission: Admission, embedder: Embedder) -> None:
        self._admission = admission
        self._embedder = embedder
        self._kept = KeptArrays(max_bytes=KEPT_BYTES)

    async def __call__(
        self,
        model: ModelSpec,
        about: Description,
        asked: LabelSet,
        pictures: Sequence[Image],
        *,
        call: Call,
        watch: Watch | None = None,
    ) -> list[Outcome[Scores]]:
        """As `ports.Classifier.classify`, of the labels in their order. Raises what `vectors` raises."""
        labels = await self.vectors(model, about, asked=asked, call=call)
        outcomes = await self._embedder.embed(model, "embed_image", pictures, call=call, watch=watch)
        scored: list[Outcome[Scores]] = []
        for outcome in outcomes:
            scored.append(_against(labels, outcome, about.scoring or Scoring()))
            if len(scored) % TURN == 0:
                await asyncio.sleep(0)
        return scored

    async def vectors(
        self, model: ModelSpec, about: Description, *, asked: LabelSet, call: Call
    ) -> NDArray[np.float32]:
        """(labels, dimension) float32, L2-normalised, in the order of the labels.

        Raises ValidationFailed and LimitExceeded naming the labels that are too long, DeadlineExceeded, and what the
        embedder raises.
        """
        # Cut to the context length, a text that is too long has a vector; uncut it is refused.
        key = f"{model.key}:{call.truncate}:{asked.digest()}"
        within_s = call.deadline - time.monotonic()
        try:
            return await self._kept.get(key, lambda: self._embed(model, about, asked, call), within_s=within_s)
        except TimeoutError:
            said = "the deadline passed while the labels were embedded; name fewer of them, or allow more time"
            raise DeadlineExceeded(said, field="labels", found=f"{len(asked.labels)} labels") from None

    async def _embed(self, model: ModelSpec, about: Description, asked: LabelSet, call: Call) -> NDArray[np.float32]:
        self._check_lengths(asked)
        # Whoever waits has a deadline; the work itself ends when nobody waits. Many texts go behind other callers'.
        many = len(asked.labels) * len(asked.templates) > AT_ONCE
        own = replace(call, deadline=math.inf, priority="bulk" if many else call.priority)
        sums = np.zeros((len(asked.labels), about.dimension))
        for part in _parts(asked):
            np.add.at(sums, [index for index, _ in part], await self._vectors(model, part, own))
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        normalised: NDArray[np.float32] = (sums / np.maximum(lengths, 1e-12)).astype(np.float32)
        return normalised

    async def _vectors(self, model: ModelSpec, part: Sequence[tuple[int, str]], call: Call) -> NDArray[np.float32]:
        texts = [Text(text) for _, text in part]
        outcomes = await self._embedder.embed(model, "embed_text", texts, call=call)
        if len(outcomes) != len(texts):
            raise InternalError(f"{len(outcomes)} outcomes for {len(texts)} texts")
        _refuse(zip((index for index, _ in part), outcomes, strict=True))
        return np.stack([np.frombuffer(o.value.vector.data, "<f4") for o in outcomes if isinstance(o, Ok)])

    def _check_lengths(self, asked: LabelSet) -> None:
        """Each label in the longest template: all of them before the first is embedded."""
        longest = max(asked.templates, key=len)
        texts = (Text(longest.replace(PLACE, label)) for label in asked.labels)
        _refuse(enumerate(self._admission.checked(Ok(text)) for text in texts))


def _against(labels: NDArray[np.float32], outcome: Outcome[Embedded], scoring: Scoring) -> Outcome[Scores]:
    if isinstance(outcome, Failed):
        return outcome
    picture = np.frombuffer(outcome.value.vector.data, "<f4")
    # Not BLAS, which would wake a thread for every core of the machine for 0.1 ms of work.
    logits = np.einsum("ld,d->l", labels, picture) * np.float32(scoring.scale) + np.float32(scoring.bias)
    return Ok(Scores(Vector(logits.astype("<f4").tobytes()), outcome.value.timings))


def _parts(asked: LabelSet) -> Iterator[list[tuple[int, str]]]:
    texts = asked.texts()
    while part := list(islice(texts, AT_ONCE)):
        yield part


def _refuse(outcomes: Iterable[tuple[int, Outcome[object]]]) -> None:
    """Raises what failed: a label's own fault as one of the request, with all such; anything else as it is."""
    failed = {index: outcome.error for index, outcome in outcomes if isinstance(outcome, Failed)}
    for error in failed.values():
        if not isinstance(error, InputError):
            raise error
    if failed:
        kind = LimitExceeded if all(isinstance(e, LimitExceeded) for e in failed.values()) else ValidationFailed
        raise refused([replace(e.as_fault(), field=f"labels[{index}]") for index, e in failed.items()], kind)
