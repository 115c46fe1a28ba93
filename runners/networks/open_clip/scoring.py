"""How likenesses become scores: two numbers among the weights of an open_clip model, read without the rest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelmora.domain.description import Scoring
from modelmora.domain.models import ModelSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed

_SCALE, _BIAS = "logit_scale", "logit_bias"


def read_scoring(spec: ModelSpec, folder: Path, names: Sequence[str]) -> Scoring | None:
    """`exp(logit_scale)` and `logit_bias` of the first weights file there is: softmax, with a bias sigmoid (SigLIP).

    None where there is no file or no scale in it: what is missing is said by loading. Without torch, unless the file
    is a pickle or in bfloat16. Raises ArtifactCorrupt, ModelLoadFailed.
    """
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return None
    numbers = _of_safetensors(spec, file) if file.suffix == ".safetensors" else _of_pickle(spec, file)
    if _SCALE not in numbers:
        return None
    scale, bias = _exponential(numbers[_SCALE]), numbers.get(_BIAS)
    if not math.isfinite(scale) or not math.isfinite(bias or 0.0):
        raise ModelLoadFailed(f"{spec.key}: {_SCALE} {numbers[_SCALE]} and {_BIAS} {bias} in {file.name} score nothing")
    if bias is None:
        return Scoring(activation="softmax", scale=scale)
    return Scoring(activation="sigmoid", scale=scale, bias=bias)


def _exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _of_safetensors(spec: ModelSpec, file: Path) -> dict[str, float]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - who only asks for the layout has it not

    try:
        with safe_open(file, framework="numpy") as opened:
            stored = {key.removeprefix("module."): key for key in opened.keys()}  # noqa: SIM118 - no dictionary
            kinds = {name: opened.get_slice(stored[name]).get_dtype() for name in (_SCALE, _BIAS) if name in stored}
        # numpy has no bfloat16
        with safe_open(file, framework="pt" if "BF16" in kinds.values() else "numpy") as opened:
            return {name: _one(spec, name, opened.get_tensor(stored[name])) for name in kinds}
    except (SafetensorError, OSError, ValueError) as cause:
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged: {cause}; fetch it again") from cause


def _of_pickle(spec: ModelSpec, file: Path) -> dict[str, float]:
    from runners.networks.weights import read_weights  # noqa: PLC0415 - torch

    state = read_weights(spec, file).state
    return {name: _one(spec, name, state[name]) for name in (_SCALE, _BIAS) if name in state}


def _one(spec: ModelSpec, name: str, value: object) -> float:
    """Of any shape with one element; open_clip stores () or (1,)."""
    array = np.asarray(value.float() if hasattr(value, "float") else value)
    if array.size != 1:
        raise ModelLoadFailed(f"{spec.key}: {name} has the shape {array.shape}, not one number", field=name)
    return float(array.reshape(()))
