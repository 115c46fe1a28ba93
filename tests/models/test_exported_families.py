"""Families of transformers as other libraries run them: the same rows, whatever the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from runners.classifier import FAMILIES, ClassifierProvider
from runners.dinov2 import FAMILIES as VECTORS
from runners.dinov2 import Dinov2Provider
from runners.engines.conversion import SUFFIXES
from runners.engines.conversions import Conversions
from runners.engines.kinds import Kind, library
from runners.engines.towers import Towers
from runners.examinations.decisions import Deciding, Decisions
from tests.models.conftest import spec
from tests.models.hub_folders import classifier_folder, configured, processor_of, stored

pytestmark = [  # the exporter's own, which exporting in a process of its own keeps to itself
    pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
KINDS: tuple[Kind, ...] = get_args(Kind)


REFUSED = ("dinov2_with_registers", "onnxruntime")
"""Its places of patches are resized with antialias, which ONNX 17 does not know."""

FAR = {("bit", "onnxruntime"): 5e-3}
"""Who is not as near as the rest, in shares of the largest logit; the gate takes them."""


def assert_the_same_rows(towers: Towers, side: int, engine: Kind, folder: Path, *, near: float = 1e-4) -> None:
    [(task, module)] = towers.modules.items()
    chance = np.random.default_rng(0)
    pictures = [chance.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(5)]
    with torch.inference_mode():
        rows = module(torch.from_numpy(np.stack(pictures))).numpy()
    file = (folder / task).with_suffix(SUFFIXES[engine])
    library(engine).export(module, pictures[0], file)
    session = library(engine).open(file, "fp32", threads=1)
    for count in (5, 1, 3):
        found = session.run(np.stack(pictures[:count]))
        np.testing.assert_allclose(found, rows[:count], rtol=near, atol=near * float(np.abs(rows).max()))


def taken_or_refused(family: str, engine: Kind) -> AbstractContextManager[object]:
    """Around the export of a family: it works, or fails for the one reason that is known."""
    if (family, engine) == REFUSED:
        return pytest.raises(Exception, match="upsample_bicubic2d_aa")
    return nullcontext()


@pytest.mark.slow
@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_gives_the_same_logits(family: str, engine: Kind, tmp_path: Path) -> None:
    provider, folder = ClassifierProvider(), classifier_folder(tmp_path, family=family)
    model = spec(provider="classifier", type="classification")
    image = provider.describe(model, folder).image
    assert image is not None
    near = FAR.get((family, engine), 1e-4)
    with taken_or_refused(family, engine):
        assert_the_same_rows(provider.towers(model, folder), image.height, engine, folder, near=near)


@pytest.mark.slow
@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", VECTORS)
def test_dinov2_gives_the_same_vectors(family: str, pooling: str, engine: Kind, tmp_path: Path) -> None:
    processor = processor_of("Bit", size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32})
    folder = stored(tmp_path, configured(family), processor)
    model = spec(provider="dinov2", config={"pooling": pooling})
    towers = Dinov2Provider().towers(model, folder)
    with taken_or_refused(family, engine):
        assert_the_same_rows(towers, 32, engine, folder)


async def test_a_classifier_is_exported_and_answers_as_torch_does(tmp_path: Path) -> None:
    provider, folder = ClassifierProvider(), classifier_folder(tmp_path / "model")
    decisions = Decisions(tmp_path / "parity")
    deciding = Deciding(provider, decisions, Conversions(tmp_path / "engines", decisions, threads=1))
    plain = spec(provider="classifier", type="classification")
    exported = spec(provider="classifier", type="classification", engine="onnxruntime")
    await deciding.convert(exported, folder, "cpu")

    by_torch, loaded = (deciding.load(one, folder, device="cpu", threads=1) for one in (plain, exported))

    pictures = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8) for n in range(3)]
    np.testing.assert_allclose(loaded.classify(pictures), by_torch.classify(pictures), atol=1e-5)  # type: ignore[attr-defined] # both are classifiers
    assert (loaded.description, loaded.precision) == (by_torch.description, "fp32")
