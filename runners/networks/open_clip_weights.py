"""The weights of an open_clip model: read without running anything that is in the file, then put into a network."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelmora.domain.models import ModelSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners.networks.mapped import SafetensorsDamaged, map_safetensors
from runners.provider import Tell

SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"

State = dict[str, Tensor]

FORGET_BYTES = 32 * 2**20
"""So much is copied at most before what was read of the file is let go."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by name, on the CPU; those of a mapped file are on disk until they are copied.

    `forget` lets go of what was read of the file so far: it is read again when it is needed again.
    """

    state: State
    forget: Callable[[], None] = lambda: None


def find_weights(spec: ModelSpec, folder: Path) -> Path:
    """The weights file of the folder, safetensors first; raises ModelLoadFailed naming both."""
    for name in (SAFETENSORS, PICKLE):
        if (folder / name).is_file():
            return folder / name
    raise ModelLoadFailed(f"{spec.key}: {folder.name} has neither {SAFETENSORS} nor {PICKLE}; put one there")


def read_weights(spec: ModelSpec, file: Path) -> Weights:
    """Raises ArtifactCorrupt, or ModelLoadFailed where a pickle needs more than tensors."""
    weights = _read_safetensors(spec, file) if file.suffix == ".safetensors" else Weights(_read_pickle(spec, file))
    content: Any = weights.state
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise ArtifactCorrupt(f"{spec.key}: {file.name} holds no weights by name")
    return replace(weights, state={str(key).removeprefix("module."): tensor for key, tensor in state.items()})


def _read_safetensors(spec: ModelSpec, file: Path) -> Weights:
    try:
        return Weights(*map_safetensors(file))
    except (SafetensorsDamaged, OSError) as cause:
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged: {cause}; fetch it again") from cause


def _read_pickle(spec: ModelSpec, file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as cause:
        if "global" in str(cause).lower():  # torch names the function that it will not call
            said = f"{file.name} would run code to be read, which is refused; store it as {SAFETENSORS}"
            raise ModelLoadFailed(f"{spec.key}: {said}") from cause
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged; fetch it again") from cause
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as cause:
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged; fetch it again") from cause


def put_weights(spec: ModelSpec, model: nn.Module, weights: Weights, *, tell: Tell | None = None) -> None:
    """Copies the weights into the model, each to the model's own precision and device, telling the bytes copied.

    Older layouts are brought to today's as open_clip does it. Raises ModelLoadFailed listing what does not fit.
    """
    try:
        state = _modernised(model, weights.state)
    except Exception as cause:  # reshaping code meets tensors of any shape
        raise ModelLoadFailed(f"{spec.key}: the weights do not fit the architecture: {cause}") from cause
    wanted = model.state_dict()
    faults = _misfits(wanted, state)
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelLoadFailed(f"{spec.key}: the weights do not fit the architecture: {'; '.join(faults[:5])}{more}")
    _copy(wanted, replace(weights, state=state), tell or (lambda done, total: None))


def _copy(wanted: Mapping[str, Tensor], weights: Weights, tell: Tell) -> None:
    """Slice by slice; a model of 600 MB needs 600 MB and `FORGET_BYTES`, not twice 600 MB."""
    total = sum(weights.state[name].nbytes for name in wanted)
    done = forgotten = 0
    tell(done, total)
    with torch.no_grad():
        for name, place in wanted.items():
            for part, given in _slices(place, weights.state[name]):
                part.copy_(given)
                done += given.nbytes
                if done - forgotten >= FORGET_BYTES:
                    weights.forget()
                    forgotten = done
            tell(done, total)
    weights.forget()


def _slices(place: Tensor, given: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both along their first dimension in parts of at most `FORGET_BYTES`: an embedding table may be 100 MB."""
    if given.nbytes <= FORGET_BYTES:
        return iter([(place, given)])
    rows = max(1, FORGET_BYTES * len(given) // given.nbytes)
    return zip(torch.split(place, rows), torch.split(given, rows), strict=True)


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


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    faults = [f"{key} is missing" for key in wanted if key not in given]
    faults += [f"{key} is unknown" for key in given if key not in wanted]
    for key in wanted.keys() & given.keys():
        if wanted[key].shape != given[key].shape:
            faults.append(f"{key} is {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}")
    return faults


class Uninitialised(TorchFunctionMode):
    """Networks built within keep whatever was in memory as weights: drawing random ones takes longer than loading."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if (
            func in (torch.Tensor.normal_, torch.Tensor.uniform_)
            or getattr(func, "__module__", None) == nn.init.__name__
        ):
            return args[0] if args else given["tensor"]
        return func(*args, **given)
