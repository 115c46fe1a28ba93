"""A copy of all that is kept, in one file: what it is read from, and what it is written to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""A row of a table by the names of its columns, of JSON's types alone."""


class TablesCopy(Protocol):
    """A database as it was at one moment."""

    @property
    def names(self) -> Sequence[str]:
        """The tables, each behind those that its rows refer to."""
        ...

    def rows(self, table: str) -> AsyncGenerator[Sequence[Row], None]:
        """Some rows at a time, ordered by their keys."""
        ...


class Tables(Protocol):
    """All rows of a database that outlive its processes. Raises DependencyUnavailable."""

    async def revision(self) -> str:
        """Of the tables, as their migrations count."""
        ...

    def copy(self) -> AbstractAsyncContextManager[TablesCopy]:
        """Writers go on meanwhile, and are not seen."""
        ...

    async def check_empty(self) -> None:
        """Raises WrongState naming a table that has rows."""
        ...

    async def fill(self, revision: str, rows: AsyncIterable[tuple[str, Sequence[Row]]]) -> None:
        """Puts the rows into tables of that revision, all or nothing, and brings these up to date.

        Raises WrongState where it is none of this version's, or the tables are not empty.
        """
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file within an archive."""

    bytes: int
    sha256: str


class ArchiveWriter(Protocol):
    """A new archive, which is there when it is closed without an error. Raises DependencyUnavailable (a full disk)."""

    async def add(self, name: str, chunks: AsyncIterable[bytes]) -> Member:
        """Raises what the chunks raise, and then nothing of them is in it."""
        ...


class ArchiveReader(Protocol):
    """An archive that was closed."""

    def names(self) -> Sequence[str]:
        """In the order in which they were added."""
        ...

    def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """Raises ValidationFailed where there is no such member."""
        ...
