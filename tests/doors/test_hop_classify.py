"""Classification over the real hop: pictures to a runner's classifier, logits back, classes of them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description, Scoring
from modelmora.domain.inference import Content, Image
from modelmora.domain.models import GroupSpec, ModelSpec, Task
from modelmora.domain.outcome import Ok, Outcome
from modelmora.domain.preprocess import Preprocess
from modelmora.usecases.admission import Admission, Limits
from modelmora.usecases.classify import Classify
from runners.provider import Tell
from tests.doors.hop import Hop, call
from tests.fakes import CatalogueTraffic
from tests.families import Family, Model

CLASSIFIER = ModelSpec(
    name="colours", version="1.0.0", type="classification", provider="family", source="bundled:own", default=True
)
LABELS = ("red", "green", "blue")


class Colours(Model):
    """The logit of a colour is how much of it there is, in 32nds; of black it knows nothing."""

    def sample(self, task: Task) -> NDArray[np.generic]:
        return np.ones((4, 4, 3), np.uint8)

    def classify(
        self, batch: Sequence[NDArray[Any]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        logits = np.stack([pixels.reshape(-1, 3).mean(axis=0) / 32 for pixels in batch])
        logits[~logits.any(axis=1)] = np.nan
        return logits.astype(np.float32)


class ColourFamily(Family):
    """A classifier by colours."""

    def tasks(self) -> frozenset[Task]:
        return frozenset({"classify"})

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        how = Preprocess(resize="exact", height=4, width=4)
        return Description(model=spec.key, image=how, labels=LABELS, scoring=Scoring())

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Colours:
        return Colours(self, spec, self.describe(spec, folder), device)


@pytest.fixture
async def classify(tmp_path: Path) -> AsyncIterator[Classify]:
    async with Hop(tmp_path, CLASSIFIER) as hop:
        hop.family = ColourFamily()
        await hop.host()
        admission = Admission(CatalogueTraffic(Catalogue((CLASSIFIER,), (GroupSpec(),))), limits=Limits())
        yield Classify(admission, hop.inference, hop.inference, hop.inference)


def plain(colour: tuple[int, int, int]) -> Outcome[Content]:
    file = io.BytesIO()
    Pillow.new("RGB", (9, 7), colour).save(file, "PNG")
    return Ok(Image(file.getvalue()))


async def test_each_picture_gets_the_classes_of_its_own_logits(classify: Classify) -> None:
    items = [plain((255, 0, 0)), plain((0, 128, 255)), plain((96, 64, 64))]

    answer = await classify(None, items, top_k=2, call=call())

    shown = [[each.label for each in o.value.classes] for o in answer.outcomes if isinstance(o, Ok)]
    assert shown == [["red", "green"], ["blue", "green"], ["red", "green"]]
    (third,) = answer.outcomes[2:]
    assert isinstance(third, Ok)
    powers = np.exp(np.array([3.0, 2.0, 2.0]))
    assert [each.score for each in third.value.classes] == pytest.approx((powers / powers.sum())[:2].tolist())
    assert answer.timings.inference_ms > 0


async def test_what_is_no_picture_and_what_is_not_finite_fail_alone(classify: Classify) -> None:
    items: list[Outcome[Content]] = [Ok(Image(b"no picture")), plain((255, 0, 0)), plain((0, 0, 0))]

    answer = await classify(None, items, call=call())

    codes = ["ok" if isinstance(o, Ok) else o.error.code for o in answer.outcomes]
    assert codes[1:] == ["ok", "internal"]
    assert codes[0] in ("invalid_input", "unsupported_media")


async def test_a_watcher_is_told_how_far_each_picture_is(classify: Classify) -> None:
    stages: dict[int, list[str]] = {}

    await classify(
        None,
        [plain((255, 0, 0)), plain((0, 255, 0))],
        call=call(),
        watch=lambda index, step: stages.setdefault(index, []).append(step.stage),
    )

    assert set(stages) == {0, 1}
    assert all(told[0] == "preprocessing" for told in stages.values())
