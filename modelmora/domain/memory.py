"""Which models must go so that another fits, and which because nobody used them: pure decisions in order of use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelmora.errors import OutOfMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A model in a device's memory; `busy` ones are in use or wanted, `pinned` ones were asked to stay."""

    model: str
    bytes: int
    device: str = "cpu"
    busy: bool = False
    pinned: bool = False


def evictions(
    held: Iterable[Held], need: int, budget: int, *, model: str = "the model", device: str = "cpu"
) -> list[str]:
    """The models to unload, least recently used first, stopping as soon as `need` bytes fit on `device`.

    `held` is in least-recently-used order, of any device; `budget` 0 means no limit. Raises OutOfMemory, naming
    what would not fit and who holds the room, when even evicting all that may go does not suffice.
    """
    there = [h for h in held if h.device == device]
    free = budget - sum(h.bytes for h in there)
    going: list[str] = []
    for candidate in there:
        if budget == 0 or need <= free:
            return going
        if not candidate.busy and not candidate.pinned:
            going.append(candidate.model)
            free += candidate.bytes
    if budget == 0 or need <= free:
        return going
    raise OutOfMemory(
        f"{model} needs {_mib(need)} and {_mib(max(free, 0))} of the budget of {_mib(budget)} on {device} can be freed"
        f"{_holders(there, going)}; raise groups.*.resources.memory or unload a model",
        retry_after_s=1.0 if any(h.busy for h in there) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resting:
    """A model that is to go when nobody used it for `ttl_s`; `used_at` is on the clock of `idle`'s `now`."""

    model: str
    ttl_s: float
    used_at: float
    busy: bool = False


def idle(models: Iterable[Resting], now: float) -> tuple[list[str], float | None]:
    """The models whose time is over at `now`, and the next moment to ask again (None: no need).

    A busy model is used now: it cannot be due before its whole time has passed from here.
    """
    due: list[str] = []
    ask_at: float | None = None
    for one in models:
        over_at = (now if one.busy else one.used_at) + one.ttl_s
        if over_at <= now and not one.busy:
            due.append(one.model)
        else:
            ask_at = over_at if ask_at is None else min(ask_at, over_at)
    return due, ask_at


def _holders(held: list[Held], going: list[str]) -> str:
    staying = [f"{h.model} {_mib(h.bytes)} ({'in use' if h.busy else 'pinned'})" for h in held if h.model not in going]
    return f"; held by {', '.join(staying)}" if staying else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
