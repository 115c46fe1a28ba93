"""How far one item is, as the server tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`percent` of all stages, 0 to 100, never falls; `done` of `total` counts within the stage (0: not known).

    The stages are `queued`, `preprocessing` (items), `loading` (bytes) and `inference` (layers).
    """

    stage: str
    percent: float
    done: int = 0
    total: int = 0
