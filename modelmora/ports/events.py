"""Events on their way: kept with what caused them, carried, taken in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelmora.domain.events.envelope import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An event in the outbox: `number` orders, `key` and `topic` are the event's."""

    number: int
    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Outbox(Protocol):
    """Events that were kept with what caused them and are not carried yet. Raises DependencyUnavailable."""

    async def add(self, events: Sequence[Event]) -> None:
        """Of what is in no transaction of the database: a model that was loaded."""
        ...

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        """By number; of a key nothing before what was kept earlier for it."""
        ...

    async def carried(self, numbers: Sequence[int]) -> None:
        """They go."""
        ...

    async def waiting(self) -> int: ...


class Publisher(Protocol):
    """Carries events, in the order of each key."""

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        """Which of them are safe with the broker, in this order. One that is not keeps back the later ones of its key.
        Raises DependencyUnavailable where none is."""
        ...

    async def ping(self) -> float:
        """Milliseconds of one round trip."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as it came; `partition` and `offset` say where from."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Subscription(Protocol):
    """Deliveries of one member of a group, at least once each."""

    async def receive(self, *, limit: int, timeout_s: float) -> Sequence[Delivery]:
        """What has come, none where nothing did in time. To be called often, whatever else is done: it is how a group
        knows its member. While paused nothing new comes. Raises DependencyUnavailable."""
        ...

    def pause(self) -> None:
        """Idempotent; partitions that come later are paused as well."""
        ...

    def resume(self) -> None: ...

    async def commit(self, reached: Mapping[tuple[str, int], int]) -> None:
        """Everything before those offsets is done with. Partitions that went to others are left out. Raises
        DependencyUnavailable."""
        ...

    @property
    def assigned(self) -> frozenset[tuple[str, int]]:
        """The partitions that it has now."""
        ...

    async def lag(self) -> Mapping[tuple[str, int], int]:
        """How many messages wait in each partition that it has."""
        ...

    async def close(self) -> None: ...


class Revoked(Protocol):
    """Asked when partitions are about to go: returns when what is under way of them is done and committed, or soon."""

    async def __call__(self, partitions: frozenset[tuple[str, int]]) -> None: ...
