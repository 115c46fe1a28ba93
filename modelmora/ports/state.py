"""What several processes of ModelMora agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Wanted = Literal["loaded", "unloaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desire:
    """What somebody asked for: a row of `desired_models`; `generation` grows with each change."""

    name: str
    version: str
    wanted: Wanted
    generation: int


class DesiredModels(Protocol):
    """The wanted state, shared by all API workers."""

    async def set(self, name: str, version: str, wanted: Wanted) -> Desire:
        """Writes the wish; the same wish again still raises the generation."""
        ...

    async def all(self) -> Sequence[Desire]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A measured size: weights plus peak, by model, device and precision."""

    model: str
    device: str
    precision: str
    bytes: int


class Footprints(Protocol):
    """Measured sizes, remembered over restarts."""

    async def remember(self, footprint: Footprint) -> None:
        """The latest measurement replaces the earlier one."""
        ...

    async def all(self) -> Sequence[Footprint]: ...


class Leases(Protocol):
    """Who may do what must run once. A fence grows with every change of holder."""

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        """Takes or renews; the fence, or None while another holds it."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Gives it back at once; nothing happens when somebody else holds it."""
        ...
