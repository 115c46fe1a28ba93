"""The weights of a transformers model: given the names that today's classes use, compared with it, put into it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import structlog
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks.weights import State, Weights, copy_weights, refuse_misfits
from runners.provider import Tell

log = structlog.get_logger(__name__)

_COUNTER = "num_batches_tracked"
"""What BatchNorm counts in training; files leave it out at will."""


def fitted(spec: ModelSpec, model: Any, weights: Weights) -> Weights:
    """The weights by the model's own names, and no others; the model may be without memory yet.

    What the file has beyond the model is told in the log, as transformers itself takes no offence at it. Raises
    ModelLoadFailed listing what is missing or has another shape.
    """
    try:
        state = as_named_today(model, weights.state)
    except Exception as cause:  # renaming and splitting meets tensors of any name and shape
        raise ModelLoadFailed(f"{spec.key}: the weights do not fit the architecture: {cause}") from cause
    wanted = {key: place for key, place in model.state_dict().items() if key in state or not key.endswith(_COUNTER)}
    unused = sorted(state.keys() - wanted.keys())
    if unused:
        log.info("weights_unused", model=spec.name, version=spec.version, count=len(unused), names=unused[:5])
    state = {key: state[key] for key in wanted if key in state}
    refuse_misfits(spec, wanted, state)
    return replace(weights, state=state)


def fill(model: Any, weights: Weights, tell: Tell | None = None) -> None:
    """Copies fitted weights, each to the model's own precision and device, telling the bytes copied."""
    copy_weights({key: place for key, place in model.state_dict().items() if key in weights.state}, weights, tell)


def as_named_today(model: Any, state: State) -> State:
    """What from_pretrained does to the names of a file, whose layout may be years old: query becomes q_proj ...

    transformers keeps tables of them (core_model_loading.py, `convert_and_load_state_dict_in_model`). Weights that are
    cut in parts stay views of what is on disk.
    """
    table = get_model_conversion_mapping(model)
    renamings = [each for each in table if isinstance(each, WeightRenaming)]
    converters = [each for each in table if isinstance(each, WeightConverter)]
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    wanted, prefix = model.state_dict(), model.base_model_prefix
    named: State = {}
    converting: dict[str, Any] = {}
    for key in sorted(state, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = key, None
        if pattern is None or name not in wanted:
            named[name] = state[key]
            continue
        converter = converting.setdefault(name, copy.deepcopy(by_pattern[pattern]))
        converter.add_tensor(name, key, pattern, state[key])
    for name, converter in converting.items():
        made = converter.convert(name, model=model, config=model.config)
        named.update({key: part[0] if isinstance(part, list) else part for key, part in made.items()})
    return named
