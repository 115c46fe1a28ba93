"""What became of one item of many: a value or an error, never silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from modelmora.errors import ModelMoraError, blames_server

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[T_co]):
    """The item succeeded."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Failed:
    """The item failed, alone."""

    error: ModelMoraError


Outcome: TypeAlias = Ok[T] | Failed


def unwrap(outcome: Outcome[T]) -> T:
    """The value, or the error raised."""
    match outcome:
        case Ok(value):
            return value
        case Failed(error):
            raise error


def fault_of(outcome: Outcome[T]) -> str:
    """The error code of one that failed through no fault of its caller; empty for all others."""
    return outcome.error.code if isinstance(outcome, Failed) and blames_server(outcome.error) else ""
