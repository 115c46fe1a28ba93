"""One server of the shipped registry for all tests that only ask; others start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Server, serve


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve` with the bundled model, ready; each embedding is computed, none remembered."""
    server = serve(tmp_path_factory.mktemp("shipped"), env={"MODELMORA_CACHE_URL": "null://"})
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def begin(name: str = "own", **options: Any) -> Server:
        started.append(serve(tmp_path / name, **options))
        return started[-1]

    yield begin
    for server in started:
        server.stop()
