"""A transformers network built from its configuration, by the library's own classes alone, and filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks import exhaustion
from runners.networks.hf.config import files
from runners.networks.hf.weights import fill, fitted
from runners.networks.json_files import Json
from runners.networks.linears import pack_linears
from runners.networks.pixels import DTYPES
from runners.networks.transfer import settle
from runners.networks.weights import read_weights
from runners.precision import Concrete
from runners.provider import Tell

_NOT_OURS = frozenset(
    {
        "auto_map",  # names code in the folder
        "attn_implementation",  # may name code on a hub
        "_attn_implementation",
        "_attn_implementation_internal",
        "use_kernels",
        "_name_or_path",
        "dtype",  # what the weights were stored in
        "torch_dtype",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "pruned_heads",
    }
)
"""What a configuration may not say here: where code comes from, the number format, what is given beside the result."""

_HOLLOW = frozenset({"swinv2"})
"""Families that read a linear layer's weights themselves: theirs stay where they are."""

_CHANNELS_LAST = frozenset({"mobilenet_v1", "mobilenet_v2", "regnet", "resnet"})
"""Families that a CPU computes faster so (ResNet-50 on AMD EPYC, one core, batches of 16: 73 for 99 ms a picture)."""


def load(
    spec: ModelSpec,
    config: Json,
    folder: Path,
    *,
    classifier: bool,
    device: str,
    precision: Concrete,
    tell: Tell | None = None,
) -> nn.Module:
    """The model with its weights, ready to run; raises what `build` does."""
    network = build(spec, config, folder, classifier=classifier, device=device, precision=precision, tell=tell)
    with exhaustion.told_as_one(f"{spec.key} does not fit on {device} beside what is there already"):
        if device == "cpu":
            _lay_out(network, config["model_type"], DTYPES[precision])
        settle(device)
    return network


def build(
    spec: ModelSpec,
    config: Json,
    folder: Path,
    *,
    classifier: bool,
    device: str = "cpu",
    precision: Concrete = "fp32",
    tell: Tell | None = None,
) -> nn.Module:
    """The network with its weights, laid out as transformers does.

    Raises ModelLoadFailed, ArtifactCorrupt, OutOfMemory.
    """
    file = files(spec, folder)[0]
    with exhaustion.told_as_one(f"{spec.key} does not fit on {device} beside what is there already"):
        weights = read_weights(spec, file)
        model = _plan(spec, config, classifier=classifier).to(DTYPES[precision])
        weights = fitted(spec, model, weights)
        _give_memory(spec, model, device)
        fill(model, weights, tell)
        network: nn.Module = model.eval().requires_grad_(False)
        return network


def _plan(spec: ModelSpec, config: Json, *, classifier: bool) -> Any:
    """The network without memory: no random weights are drawn, and nothing is taken for what will not fit.

    In fp32: the library would change torch's default format for another one, which all threads share.
    """
    auto: Any = AutoModelForImageClassification if classifier else AutoModel
    try:
        with torch.device("meta"):
            settings = CONFIG_MAPPING[config["model_type"]].from_dict({"architectures": [], **_cleaned(config)})
            return auto.from_config(settings, dtype=None, trust_remote_code=False)
    except Exception as cause:  # a configuration can ask for anything: strange values, absent packages
        raise ModelLoadFailed(f"{spec.key}: the network cannot be built: {cause}") from cause


def _give_memory(spec: ModelSpec, model: Any, device: str) -> None:
    try:
        model.to_empty(device=device)
        _compute_buffers(model)
    except Exception as cause:  # absent devices
        if exhaustion.is_out_of_memory(cause):
            raise
        raise ModelLoadFailed(f"{spec.key}: the network cannot be put on {device}: {cause}") from cause


def _lay_out(model: Any, family: str, dtype: torch.dtype) -> None:
    """The weights as a CPU computes with them fastest."""
    if family in _CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if family not in _HOLLOW:
        pack_linears(model, dtype)


def _cleaned(value: Any) -> Any:
    """The configuration, and those within it, without what is not theirs to say."""
    if isinstance(value, dict):
        return {key: _cleaned(each) for key, each in value.items() if key not in _NOT_OURS}
    return [_cleaned(each) for each in value] if isinstance(value, list) else value


def _compute_buffers(model: Any) -> None:
    """Those that no file holds, such as the places of tokens to each other: the library computes them with the weights.

    It leaves alone what it finds marked as being there (transformers/initialization.py).
    """
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    with torch.no_grad():
        for module in model.modules():
            if module._non_persistent_buffers_set:
                model._init_weights(module)
