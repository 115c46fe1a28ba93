"""What a runner says of a model before it is asked to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelmora.domain.features import Prepared
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.domain.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How likenesses become scores: `scale` x cosine + `bias` (logits), then softmax over the labels or each by itself.

    CLIP (Radford et al. 2021, section 3.1) is softmax; SigLIP (Zhai et al. 2023) is sigmoid with a bias.
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"
    scale: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """How a model takes its input and what comes out. What it has no field for, it does not do.

    `dimension` is an embedding's. `labels` are a classifier's classes, in the order of its scores; `scoring` of a model
    with both towers makes labels of texts. `shortens` is the smallest dimension that a vector may be cut to
    (Matryoshka, Kusupati et al. 2022; 0: it may not). `inputs` are what callers of a tensor model send and `outputs`
    what they get, `batches` whether their first axis is the size of a batch: as its files say until it was seen, when
    it was loaded, that rows do not hang together (`proven`). `prepared` are those of the model's own inputs that are
    made of what callers send.
    """

    model: str
    dimension: int = 0
    image: Preprocess | None = None
    text: TextPreprocess | None = None
    max_batch: int = 16
    scoring: Scoring | None = None
    labels: tuple[str, ...] = ()
    shortens: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batches: bool = True
    proven: bool = True
    prepared: tuple[Prepared, ...] = ()
