"""A model's networks as they are exported: from one batch of raw input to its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Towers:
    """One fp32 module a task: uint8 (n, height, width, 3) or int32 (n, context) in, float32 (n, d) rows out."""

    modules: Mapping[Task, nn.Module]


def refuse_exported(spec: ModelSpec) -> None:
    """Raises ModelLoadFailed for a model that another library than torch is to run, where that is not set up."""
    if spec.exported:
        raise ModelLoadFailed(f"{spec.key}: engine {spec.engine!r} loads what was exported for it", field="engine")


@runtime_checkable
class Exportable(Protocol):
    """What a provider has besides, when its models can be run by other libraries."""

    def towers(self, spec: ModelSpec, folder: Path | None) -> Towers:
        """Raises what loading raises."""
        ...

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """The files that make the model what it is; raises ModelLoadFailed without them."""
        ...
