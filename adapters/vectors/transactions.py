"""One transaction for what is written into a folder at once, where the library makes one of each point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_transaction(client: Any, name: str) -> Iterator[None]:
    """Writes of the block into the index are kept together, at its end: the disk is waited for once.

    This reaches into the library (`QdrantLocal.collections`, `LocalCollection.storage`), whose minor version is pinned:
    where it has changed, each point is its own transaction again.
    """
    kept = _persistence(client, name)
    if kept is None:
        yield
        return
    connection = kept.storage
    kept.storage = _Open(connection)
    try:
        yield
    finally:  # what was written before a failure is in memory already
        kept.storage = connection
        with connection:
            pass


class _Open:
    """A connection whose blocks do not commit."""

    def __init__(self, connection: Any) -> None:
        self.execute = connection.execute

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _persistence(client: Any, name: str) -> Any | None:
    try:
        local = client._client
        return local.collections[local.aliases.get(name, name)].storage
    except (AttributeError, KeyError):
        return None
