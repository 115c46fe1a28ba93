"""How near two sets of vectors are, and the pictures and texts they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np

from modelmora.domain.description import Description
from modelmora.domain.models import Task
from modelmora.errors import ModelLoadFailed
from runners.forms import Likeness
from runners.inputs.tokenizer import prepare_text
from runners.preprocess import prepare_image
from runners.provider import Tokenizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Inputs: TypeAlias = "Mapping[Task, list[NDArray[np.generic]]]"

FOLDER = Path(__file__).parent / "parity_samples"
NEIGHBOURS = 10
FARTHEST = 2.0
"""How far a component of two vectors of length 1 can be apart; what is not a number is as far."""


@dataclass(frozen=True, slots=True)
class Samples:
    """64 picture files and 64 texts. Those with even numbers gate; the others are for calibrating, and never gate."""

    pictures: tuple[bytes, ...]
    texts: tuple[str, ...]


def samples(folder: Path = FOLDER) -> Samples:
    """Raises ModelLoadFailed where they were left out of the installation."""
    files = sorted((folder / "pictures").glob("*"))
    texts = folder / "texts.txt"
    if not files or not texts.is_file():
        raise ModelLoadFailed(f"the samples for verifying are not there: {folder} needs pictures/ and texts.txt")
    return Samples(tuple(file.read_bytes() for file in files), tuple(texts.read_text(encoding="utf-8").splitlines()))


class Described(Protocol):
    """As much of a model as its samples need; one with a tokenizer of its own has `tokenize` as well."""

    @property
    def description(self) -> Description: ...


def inputs(model: Described, given: Samples) -> Inputs:
    """The samples as the model takes them, for each task that it can do."""
    how = model.description
    made: dict[Task, list[NDArray[np.generic]]] = {}
    if (image := how.image) is not None:
        made["classify" if how.labels else "embed_image"] = [prepare_image(data, image) for data in given.pictures]
    if (text := how.text) is not None and text.tokenizer == "runner":
        made["embed_text"] = [cast(Tokenizes, model).tokenize(one, truncate=True) for one in given.texts]
    elif text is not None:
        made["embed_text"] = [prepare_text(one, text, truncate=True) for one in given.texts]
    return made


def likeness(found: NDArray[np.float32], reference: NDArray[np.float32]) -> Likeness:
    """Of two (samples, dimension) arrays, row by row; a row that is not finite is as unlike as can be."""
    a, b = found.astype(np.float64), reference.astype(np.float64)
    gating = np.nan_to_num(_cosines(a, b)[::2], nan=-1.0)
    return Likeness(
        lowest=float(gating.min()),
        mean=float(gating.mean()),
        overlap=_overlap(a, b),
        difference=float(np.nan_to_num(np.abs(a - b), nan=FARTHEST, posinf=FARTHEST).max()),
    )


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(axis=1) / lengths, np.float64)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The mean share of each row's nearest other rows that are the same in both."""
    pairs = zip(_nearest(a), _nearest(b), strict=True)
    return float(np.mean([len(one & other) / len(other) for one, other in pairs]))


def _nearest(rows: NDArray[np.float64]) -> list[set[int]]:
    likenesses = np.nan_to_num(rows) @ np.nan_to_num(rows).T
    np.fill_diagonal(likenesses, -np.inf)
    order = np.argsort(-likenesses, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(rows) - 1)]
    return [set(row.tolist()) for row in order]
