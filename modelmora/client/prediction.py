"""A tensor model's outputs as the SDK hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelmora.client.served import Served
from modelmora.client.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Served):
    """Outputs by name; `labels`, of those whose last axis has names, the best one of each row, row after row."""

    outputs: Mapping[str, Array]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]
