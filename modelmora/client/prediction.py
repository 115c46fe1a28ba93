"""A tensor model's outputs as the SDK hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelmora.client.tensors import Array
from modelmora.domain.inference import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Outputs by name, and which version of which model made them; timings do not count in `==`."""

    outputs: Mapping[str, Array]
    model: str
    version: str
    timings: Timings = field(default=Timings(), compare=False)
    total_ms: float = field(default=0.0, compare=False)

    @property
    def key(self) -> str:
        return f"{self.model}@{self.version}"

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]
