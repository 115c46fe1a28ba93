"""The configuration of a model as transformers stores it, read without transformers: its family, size and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelmora.domain.description import Scoring
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks.hf import processor
from runners.networks.json_files import Json, read_json
from runners.networks.weight_files import find_first

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LAYOUT = Layout(CONFIG, WEIGHTS, (processor.FILE,))
"""What save_pretrained writes of a model and its image processor."""


def given(spec: ModelSpec, folder: Path | None) -> Path:
    """The model's folder; raises ModelLoadFailed without one."""
    if folder is None:
        raise ModelLoadFailed(f"{spec.key}: provider {spec.provider} needs a folder with {CONFIG} and weights")
    return folder


def read_config(spec: ModelSpec, folder: Path, families: Sequence[str]) -> Json:
    """The folder's `config.json`; raises ModelLoadFailed where it is not there or its `model_type` is another."""
    if not (folder / CONFIG).is_file():
        raise ModelLoadFailed(f"{spec.key}: {folder.name}/{CONFIG} is not there; put it beside the weights")
    config = read_json(spec, folder / CONFIG)
    family = config.get("model_type")
    if family not in families:
        raise ModelLoadFailed(
            f"{spec.key}: {CONFIG}: model_type is {family!r}; provider {spec.provider} serves {', '.join(families)}",
            field=f"{CONFIG}: model_type",
            found=str(family)[:80],
            expected=", ".join(families),
        )
    if config.get("quantization_config") is not None:
        said = "quantized weights are not served; take the model's plain ones"
        raise ModelLoadFailed(f"{spec.key}: {CONFIG}: {said}", field=f"{CONFIG}: quantization_config")
    return config


def whole_number(spec: ModelSpec, config: Json, name: str) -> int:
    """A size in the configuration; raises ModelLoadFailed naming it."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelLoadFailed(
            f"{spec.key}: {CONFIG}: {name} is {value!r}, not a whole number from 1",
            field=f"{CONFIG}: {name}",
            found=str(value)[:80],
            expected="a whole number from 1",
        )
    return value


def labels(spec: ModelSpec, config: Json) -> tuple[str, ...]:
    """The classes in the order of the logits; where none are named, by transformers' own way (LABEL_0, ...)."""
    named = config.get("id2label")
    if not named:
        count = whole_number(spec, {"num_labels": 2, **config}, "num_labels")
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        by_place = {int(place): label for place, label in named.items()}
    except (AttributeError, TypeError, ValueError):
        by_place = {}
    if sorted(by_place) != list(range(len(named))) or not all(isinstance(label, str) for label in by_place.values()):
        raise ModelLoadFailed(
            f"{spec.key}: {CONFIG}: id2label does not name the classes 0 to {len(named) - 1}, each by a text",
            field=f"{CONFIG}: id2label",
        )
    return tuple(by_place[place] for place in range(len(by_place)))


def scoring(spec: ModelSpec, config: Json) -> Scoring:
    """Softmax, or of a model that was trained for several labels at once each label by itself."""
    problem = config.get("problem_type")
    match problem:
        case None | "single_label_classification":
            return Scoring(activation="softmax")
        case "multi_label_classification":
            return Scoring(activation="sigmoid")
        case _:
            raise ModelLoadFailed(
                f"{spec.key}: {CONFIG}: problem_type {problem!r} is no classification",
                field=f"{CONFIG}: problem_type",
                found=str(problem)[:80],
                expected="single_label_classification or multi_label_classification",
            )


def files(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """What makes the model what it is, the weights first; raises ModelLoadFailed without them."""
    weights = find_first(spec, folder, WEIGHTS)
    beside = (folder / name for name in (CONFIG, processor.FILE))
    return (weights, *(file for file in beside if file.is_file()))
