"""Which models must go so that another fits: a pure decision in least-recently-used order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelmora.errors import OutOfMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A model in memory; `busy` ones are leased, `pinned` ones were asked to stay."""

    model: str
    bytes: int
    busy: bool = False
    pinned: bool = False


def evictions(held: Iterable[Held], need: int, budget: int, *, model: str = "the model") -> list[str]:
    """The models to unload, least recently used first, stopping as soon as `need` bytes fit.

    `held` is in least-recently-used order; `budget` 0 means no limit. Raises OutOfMemory, naming
    what would not fit and who holds the room, when even evicting all that may go does not suffice.
    """
    held = list(held)
    free = budget - sum(h.bytes for h in held)
    going: list[str] = []
    for candidate in held:
        if budget == 0 or need <= free:
            return going
        if not candidate.busy and not candidate.pinned:
            going.append(candidate.model)
            free += candidate.bytes
    if budget == 0 or need <= free:
        return going
    raise OutOfMemory(
        f"{model} needs {_mib(need)} and {_mib(max(free, 0))} of the budget of {_mib(budget)} can be freed"
        f"{_holders(held, going)}; raise groups.*.resources.memory or unload a model",
        retry_after_s=1.0 if any(h.busy for h in held) else None,
    )


def _holders(held: list[Held], going: list[str]) -> str:
    staying = [f"{h.model} {_mib(h.bytes)} ({'in use' if h.busy else 'pinned'})" for h in held if h.model not in going]
    return f"; held by {', '.join(staying)}" if staying else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
