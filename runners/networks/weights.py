"""Weights on their way from a file into a network: nothing in the file is run, and they are copied in slices."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelmora.domain.models import ModelSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners.networks.mapped import SafetensorsDamaged, map_safetensors
from runners.provider import Tell

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
            said = f"{file.name} would run code to be read, which is refused; store it as safetensors"
            raise ModelLoadFailed(f"{spec.key}: {said}") from cause
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged; fetch it again") from cause
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as cause:
        raise ArtifactCorrupt(f"{spec.key}: {file.name} is damaged; fetch it again") from cause


def refuse_misfits(spec: ModelSpec, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises ModelLoadFailed listing what is missing, unknown or of another shape."""
    faults = [f"{key} is missing" for key in wanted if key not in given]
    faults += [f"{key} is unknown" for key in given if key not in wanted]
    for key in wanted.keys() & given.keys():
        if wanted[key].shape != given[key].shape:
            faults.append(f"{key} is {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelLoadFailed(f"{spec.key}: the weights do not fit the architecture: {'; '.join(faults[:5])}{more}")


def copy_weights(wanted: Mapping[str, Tensor], weights: Weights, tell: Tell | None = None) -> None:
    """Each to the precision and device of its place, telling the bytes copied.

    Slice by slice: a model of 600 MB needs 600 MB and `FORGET_BYTES`, not twice 600 MB.
    """
    said = tell or (lambda done, total: None)
    total = sum(weights.state[name].nbytes for name in wanted)
    done = forgotten = 0
    said(done, total)
    with torch.no_grad():
        for name, place in wanted.items():
            for part, given in _slices(place, weights.state[name]):
                part.copy_(given)
                done += given.nbytes
                if done - forgotten >= FORGET_BYTES:
                    weights.forget()
                    forgotten = done
            said(done, total)
    weights.forget()


def _slices(place: Tensor, given: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both along their first dimension in parts of at most `FORGET_BYTES`: an embedding table may be 100 MB."""
    if given.nbytes <= FORGET_BYTES:
        return iter([(place, given)])
    rows = max(1, FORGET_BYTES * len(given) // given.nbytes)
    return zip(torch.split(place, rows), torch.split(given, rows), strict=True)


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
