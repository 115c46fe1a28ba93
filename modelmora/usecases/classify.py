"""Pictures into classes: a classifier's own labels, or the caller's with a model that embeds pictures and texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmora.domain.capability import able, cannot
from modelmora.domain.classification import Classified, Scores
from modelmora.domain.description import Description, Scoring
from modelmora.domain.inference import Call, Content, Image, Timings
from modelmora.domain.labels import LabelSet
from modelmora.domain.likelihoods import likelihoods, ranked
from modelmora.domain.models import MODEL_TYPES, ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import CapabilityMissing, InternalError, ModelNotFound, ValidationFailed
from modelmora.ports import Classifier, Describer, Embedder, Watch
from modelmora.usecases.admission import Admission, slowest
from modelmora.usecases.zero_shot import TURN, ZeroShot

TOP_K = 5
MOST_CLASSES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which classes are answered: at most `top_k`, of at least `threshold`."""

    top_k: int
    threshold: float

    def check(self) -> None:
        """Raises ValidationFailed; NaN is no threshold."""
        if not 1 <= self.top_k <= MOST_CLASSES:
            raise _wrong("top_k", self.top_k, f"1 to {MOST_CLASSES}")
        if not 0 <= self.threshold <= 1:
            raise _wrong("threshold", self.threshold, "0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The answer: which version served, one outcome per item, and the slowest item's stages."""

    model: ModelSpec
    outcomes: Sequence[Outcome[Classified]]
    timings: Timings
    total_ms: float


class Classify:
    """The use case behind every classifying face."""

    def __init__(
        self,
        admission: Admission,
        classifier: Classifier,
        embedder: Embedder,
        describer: Describer,
    ) -> None:
        self.admission = admission
        self._classifier = classifier
        self._describer = describer
        self._zero_shot = ZeroShot(admission, embedder)

    async def __call__(
        self,
        ref: str | None,
        items: Sequence[Outcome[Content]],
        *,
        labels: Sequence[str] = (),
        templates: Sequence[str] = (),
        top_k: int = TOP_K,
        threshold: float = 0.0,
        call: Call,
        watch: Watch | None = None,
    ) -> Classification:
        """One outcome per item, same order; an item the door could not read arrives already failed.

        With `labels` the model is one that embeds pictures and texts, and `templates` make texts of them (`{}` is the
        label); `call.truncate` cuts those that are too long. Raises for the request as a whole: ValidationFailed and
        LimitExceeded (items, labels, templates, top_k, threshold), ModelNotFound, VersionNotFound, CapabilityMissing,
        and what concerns the model or the runners.
        """
        started = self.admission.clock()
        self.admission.check_count(len(items))
        choice, asked = Choice(top_k=top_k, threshold=threshold), _labels(labels, templates)
        choice.check()
        model = self.serving(ref, labelled=asked is not None)
        description = await self._described(model, asked, call)
        pictures = [_picture(self.admission.checked(item)) for item in items]
        scored = await self._scored(pictures, asked, model=model, about=description, call=call, watch=watch)
        own = asked.labels if asked is not None else description.labels
        outcomes = await _classified(scored, own, description.scoring or Scoring(), choice)
        total_ms = (self.admission.clock() - started) * 1e3
        self.admission.record(call, model, "classify", outcomes, total_ms)
        return Classification(model=model, outcomes=outcomes, timings=slowest(outcomes), total_ms=total_ms)

    def serving(self, ref: str | None, *, labelled: bool) -> ModelSpec:
        """The version that serves a request which names `ref` (None or empty: the default classifier, or with labels
        the default embedding model). Raises ValidationFailed (no name), ModelNotFound, VersionNotFound,
        CapabilityMissing."""
        try:
            model = self.admission.serving(ref, "embed_image" if labelled else "classify", also=MODEL_TYPES)
        except ModelNotFound as error:
            if ref or labelled:
                raise
            said = f"{error.detail}, or give `labels` of your own to the default embedding model"
            raise ModelNotFound(said, field="model", expected="a classifier's name, or labels") from error
        if model.type not in ("classification", "embedding"):
            raise cannot(model, "classify")
        if labelled and model.type == "classification":
            raise CapabilityMissing(
                f"{model.key} knows its own labels and takes no others; leave out `labels`, or name an embedding model",
                field="labels",
                expected="no labels",
            )
        return model

    async def _described(self, model: ModelSpec, asked: LabelSet | None, call: Call) -> Description:
        description = await self._describer.describe(model, deadline=call.deadline)
        if "classify" not in able(model, description):
            raise cannot(model, "classify", description)
        if model.type == "embedding" and asked is None:
            raise CapabilityMissing(
                f"{model.key} has no labels of its own; name some in `labels`, or a classifier in `model`",
                field="labels",
                found="none",
                expected="at least one",
            )
        return description

    async def _scored(
        self,
        items: Sequence[Outcome[Image]],
        asked: LabelSet | None,
        *,
        model: ModelSpec,
        about: Description,
        call: Call,
        watch: Watch | None,
    ) -> list[Outcome[Scores]]:
        """Each picture's logits; nobody is asked where there is none."""
        places = [place for place, item in enumerate(items) if isinstance(item, Ok)]
        pictures = [item.value for item in items if isinstance(item, Ok)]
        told = watch and _placed(watch, places)
        if not pictures:
            outcomes: list[Outcome[Scores]] = []
        elif asked is None:
            outcomes = await self._classifier.classify(model, pictures, call=call, watch=told)
        else:
            outcomes = await self._zero_shot(model, about, asked, pictures, call=call, watch=told)
        if len(outcomes) != len(pictures):
            raise InternalError(f"{len(outcomes)} outcomes for {len(pictures)} pictures")
        scored = iter(outcomes)
        return [item if isinstance(item, Failed) else next(scored) for item in items]


def _labels(labels: Sequence[str], templates: Sequence[str]) -> LabelSet | None:
    """The caller's own, or None; raises what `LabelSet.checked` raises."""
    if templates and not labels:
        said = "templates make texts of labels; name some in `labels`"
        raise ValidationFailed(said, field="templates", found=f"{len(templates)} templates", expected="none")
    return LabelSet.checked(labels, templates) if labels else None


def _wrong(field: str, found: float, expected: str) -> ValidationFailed:
    return ValidationFailed(f"{field} is out of range", field=field, found=str(found)[:40], expected=expected)


def _picture(item: Outcome[Content]) -> Outcome[Image]:
    match item:
        case Ok(Image() as image):
            return Ok(image)
        case Failed():
            return item
    said = "a text cannot be classified; send a picture"
    return Failed(CapabilityMissing(said, field="content", found="a text", expected="a picture"))


def _placed(watch: Watch, places: Sequence[int]) -> Watch:
    """`watch` told of the places in the whole request instead of those among its readable pictures."""
    return lambda index, step: watch(places[index], step)


async def _classified(
    scored: Sequence[Outcome[Scores]], labels: Sequence[str], scoring: Scoring, choice: Choice
) -> list[Outcome[Classified]]:
    outcomes: list[Outcome[Classified]] = []
    for outcome in scored:
        outcomes.append(outcome if isinstance(outcome, Failed) else _chosen(outcome.value, labels, scoring, choice))
        if len(outcomes) % TURN == 0:
            await asyncio.sleep(0)
    return outcomes


def _chosen(scores: Scores, labels: Sequence[str], scoring: Scoring, choice: Choice) -> Outcome[Classified]:
    logits = np.frombuffer(scores.logits.data, "<f4")
    if len(logits) != len(labels) or not np.isfinite(logits).all():
        return Failed(
            InternalError(f"the model gave {len(logits)} scores for {len(labels)} labels, or not finite ones")
        )
    classes = ranked(likelihoods(logits, scoring), labels, top_k=choice.top_k, threshold=choice.threshold)
    return Ok(Classified(classes, scores.timings))
