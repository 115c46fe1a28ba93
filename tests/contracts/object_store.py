"""A real SeaweedFS of a test session's own, and buckets in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.objects import S3Objects
from load.components.seaweed import Seaweed as ObjectStore
from tests.support import components, running

__all__ = ["ObjectStore", "bucket", "served"]


@contextmanager
def served(folder: Path) -> Iterator[ObjectStore]:
    """Ready to take buckets."""
    with components():
        store = ObjectStore(folder)
    with running(store):
        yield store


async def bucket(store: ObjectStore) -> S3Objects:
    """An empty one."""
    name = f"test-{secrets.token_hex(8)}"
    made = S3Objects(store.endpoint, name, access_key=store.access_key, secret_key=store.secret_key, secure=False)
    await made.prepare()
    return made
