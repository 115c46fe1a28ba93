"""The weights of an open_clip model: where they are, and brought to today's layout as open_clip does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import nn

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks.weight_files import find_first
from runners.networks.weights import State, Weights, copy_weights, refuse_misfits
from runners.provider import Tell

SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"


def find_weights(spec: ModelSpec, folder: Path) -> Path:
    """The weights file of the folder, safetensors first; raises ModelLoadFailed naming both."""
    return find_first(spec, folder, (SAFETENSORS, PICKLE))


def put_weights(spec: ModelSpec, model: nn.Module, weights: Weights, *, tell: Tell | None = None) -> None:
    """Copies the weights into the model, each to the model's own precision and device, telling the bytes copied.

    Older layouts are brought to today's as open_clip does it. Raises ModelLoadFailed listing what does not fit.
    """
    try:
        state = _modernised(model, weights.state)
    except Exception as cause:  # reshaping code meets tensors of any shape
        raise ModelLoadFailed(f"{spec.key}: the weights do not fit the architecture: {cause}") from cause
    wanted = model.state_dict()
    refuse_misfits(spec, wanted, state)
    copy_weights(wanted, replace(weights, state=state), tell)


def _modernised(model: nn.Module, state: State) -> State:
    """What `open_clip.load_checkpoint` does between reading a file and filling the model."""
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own:
            state[name] = state[name].reshape(own[name].shape)
    state.pop("text.transformer.embeddings.position_ids", None)
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    return state
