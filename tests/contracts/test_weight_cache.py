"""The cache of registered files: fetched once whoever asks, checked at each use, bounded, never half there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from adapters.objects import FileObjects
from modelmora.domain.registry.artifact import MANIFEST, Artifact, ArtifactFile, manifest_of
from modelmora.errors import ArtifactCorrupt, DependencyUnavailable
from registry.weight_cache import WeightCache
from tests.fakes import until
from tests.support import end, start, wait_until


class Store(FileObjects):
    """A real one that counts what is asked of it, and may be slow, damaged on the wire, or away."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []
        self.flips = 0
        self.away = False
        self.open = asyncio.Event()
        self.open.set()

    async def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        self.asked.append(sha256)
        if self.away:
            raise DependencyUnavailable("the store is away")
        await self.open.wait()
        async for chunk in super().get(sha256):
            if self.flips:
                self.flips -= 1
                raise ArtifactCorrupt(f"the store's copy of {sha256} is damaged")
            yield chunk

    async def keep(self, content: bytes) -> ArtifactFile:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        stored = await self.put(chunks())
        return ArtifactFile(path="x", bytes=stored.bytes, sha256=stored.sha256)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


async def registered(store: Store, **contents: bytes) -> str:
    """The digest of an artifact with files of these names."""
    files = []
    for name, content in contents.items():
        kept = await store.keep(content)
        files.append(ArtifactFile(path=f"sub/{name}", bytes=kept.bytes, sha256=kept.sha256))
    artifact = Artifact.of("", files)
    await store.keep(manifest_of(artifact.files))
    return artifact.sha256


def cache_of(tmp_path: Path, store: Store, *, limit_bytes: int = 0) -> WeightCache:
    return WeightCache(tmp_path / "cache", store, limit_bytes=limit_bytes)


async def contents(cache: WeightCache, sha256: str) -> dict[str, bytes]:
    async with cache.using(sha256) as folder:
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != ".locks")


async def test_files_come_once_and_stay_over_a_restart(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"w" * 3_000_000, config=b"{}")
    for _ in range(2):
        assert await contents(cache_of(tmp_path, store), sha256) == {"weights": b"w" * 3_000_000, "config": b"{}"}
    assert len(store.asked) == 3  # the list and two files
    assert folders(tmp_path) == [sha256]


async def test_many_who_ask_at_once_fetch_once(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"w")
    caches = [cache_of(tmp_path, store) for _ in range(8)]
    assert await asyncio.gather(*(contents(cache, sha256) for cache in caches)) == [{"weights": b"w"}] * 8
    assert len(store.asked) == 2


ASK = """
import asyncio, sys
from pathlib import Path
from adapters.objects import FileObjects
from registry.weight_cache import WeightCache

class Slow(FileObjects):
    async def get(self, sha256):
        Path(sys.argv[2]).joinpath("began").touch()
        while Path(sys.argv[2]).joinpath("wait").exists():
            await asyncio.sleep(0.01)
        async for chunk in super().get(sha256):
            yield chunk

async def main():
    cache = WeightCache(Path(sys.argv[2]) / "cache", Slow(Path(sys.argv[2]) / "store"))
    async with cache.using(sys.argv[1]) as folder:
        print((folder / "sub" / "weights").read_bytes())

asyncio.run(main())
"""


async def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_in_the_way(
    tmp_path: Path, store: Store
) -> None:
    sha256 = await registered(store, weights=b"w")
    (tmp_path / "wait").touch()
    command = [sys.executable, "-c", ASK, sha256, str(tmp_path)]
    killed = start(command, log=tmp_path / "log", cwd=Path(__file__).parents[2])
    await asyncio.to_thread(wait_until, (tmp_path / "began").exists, within_s=30, what="the fetch")
    waiting = asyncio.create_task(contents(cache_of(tmp_path, store), sha256))
    await asyncio.sleep(0)
    assert not waiting.done()

    end(killed, by=signal.SIGKILL)

    assert await asyncio.wait_for(waiting, 30) == {"weights": b"w"}
    assert folders(tmp_path) == [sha256]


async def test_a_bit_that_flipped_in_the_cache_is_found_and_mended(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"weights", config=b"{}")
    cache = cache_of(tmp_path, store)
    await contents(cache, sha256)
    file = tmp_path / "cache" / sha256 / "sub" / "weights"
    for damage in (lambda: file.write_bytes(b"weightz"), file.unlink, (file.parents[1] / MANIFEST).unlink):
        damage()
        assert await contents(cache, sha256) == {"weights": b"weights", "config": b"{}"}
    assert len(store.asked) == 4 * 3


async def test_what_comes_damaged_is_asked_for_once_more(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"weights")
    store.flips = 1
    assert await contents(cache_of(tmp_path, store), sha256) == {"weights": b"weights"}
    assert len(store.asked) == 3


async def test_what_is_damaged_in_the_store_is_said_and_not_kept(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"weights")
    store.flips = 100
    with pytest.raises(ArtifactCorrupt, match="is damaged"):
        await contents(cache_of(tmp_path, store), sha256)
    assert folders(tmp_path) == []
    store.flips = 0
    assert await contents(cache_of(tmp_path, store), sha256) == {"weights": b"weights"}


async def test_a_digest_of_something_else_is_no_artifact(tmp_path: Path, store: Store) -> None:
    other = await store.keep(b"../../etc/passwd is not a list")
    with pytest.raises(ArtifactCorrupt, match="is no list of files"):
        await contents(cache_of(tmp_path, store), other.sha256)
    escaping = await store.keep(f"{'ab' * 32}  ../outside\n".encode())
    with pytest.raises(ArtifactCorrupt, match="leaves the artifact"):
        await contents(cache_of(tmp_path, store), escaping.sha256)


async def test_a_store_that_is_away_matters_only_for_what_is_not_here(tmp_path: Path, store: Store) -> None:
    here, there = await registered(store, weights=b"here"), await registered(store, weights=b"there")
    cache = cache_of(tmp_path, store)
    await contents(cache, here)
    store.away = True
    assert await contents(cache, here) == {"weights": b"here"}
    with pytest.raises(DependencyUnavailable, match="the store is away"):
        await contents(cache, there)
    assert folders(tmp_path) == [here]


async def test_those_unused_for_longest_go_when_the_rest_does_not_fit(tmp_path: Path, store: Store) -> None:
    cache = cache_of(tmp_path, store, limit_bytes=2_500)
    first, second, third = [await registered(store, weights=letter * 1_000) for letter in (b"a", b"b", b"c")]
    for age, sha256 in enumerate((first, second)):
        await contents(cache, sha256)
        os.utime(tmp_path / "cache" / sha256, (age, age))
    await contents(cache, first)  # which makes the second the oldest
    await contents(cache, third)
    assert folders(tmp_path) == sorted([first, third])


async def test_room_is_made_before_anything_comes(tmp_path: Path, store: Store) -> None:
    cache = cache_of(tmp_path, store, limit_bytes=1_500)
    first, second = [await registered(store, weights=letter * 1_000) for letter in (b"a", b"b")]
    await contents(cache, first)
    store.open.clear()
    store.asked.clear()
    asking = asyncio.create_task(contents(cache, second))
    store.open.set()
    await until(lambda: len(store.asked) == 2)  # its list, and now its weights
    assert first not in folders(tmp_path)
    await asking


async def test_what_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await registered(store, weights=b"w" * 1_000)
    (tmp_path / "cache").mkdir()
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr("registry.weight_cache.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DependencyUnavailable, match=r"has 999 bytes of room left and .* has 1000"):
        await contents(cache_of(tmp_path, store), sha256)
    assert len(store.asked) == 1  # for the list
    assert folders(tmp_path) == []


async def test_a_file_of_many_paths_comes_once(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, one=b"same", other=b"same")
    assert await contents(cache_of(tmp_path, store), sha256) == {"one": b"same", "other": b"same"}
    assert len(store.asked) == 2


async def test_what_fails_while_it_is_used_is_the_users_own(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=b"w")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        async with cache_of(tmp_path, store).using(sha256) as folder:
            (folder / "config.json").read_text()


async def test_a_disk_that_damages_whatever_is_written_ends_in_an_error(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await registered(store, weights=b"w")
    monkeypatch.setattr("registry.weight_cache._digest", lambda path: "of other bytes")
    with pytest.raises(ArtifactCorrupt, match=r"damaged each time it was fetched: sub/weights; is the disk"):
        await contents(cache_of(tmp_path, store), sha256)


async def test_what_killed_processes_left_goes_when_room_is_made(tmp_path: Path, store: Store) -> None:
    cache = cache_of(tmp_path, store, limit_bytes=10**6)
    left = tmp_path / "cache" / f"{'ab' * 32}.part-x"
    left.mkdir(parents=True)
    sha256 = await registered(store, weights=b"w")
    await contents(cache, sha256)
    assert folders(tmp_path) == [sha256]


async def test_what_is_in_use_stays(tmp_path: Path, store: Store) -> None:
    cache = cache_of(tmp_path, store, limit_bytes=1_500)
    first, second = [await registered(store, weights=letter * 1_000) for letter in (b"a", b"b")]
    async with cache.using(first) as folder:
        await contents(cache_of(tmp_path, store, limit_bytes=1_500), second)
        assert (folder / "sub" / "weights").read_bytes() == b"a" * 1_000
        assert await cache.tidy() == [second]  # over the limit still, and nothing else may go
    assert folders(tmp_path) == [first]


async def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await registered(store, weights=b"weights")
    cache = cache_of(tmp_path, store)

    async def full(digest: str, into: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_download", full)
    with pytest.raises(DependencyUnavailable, match="has no room left"):
        await contents(cache, sha256)
    assert folders(tmp_path) == []


async def test_who_leaves_while_it_is_fetched_leaves_nothing(tmp_path: Path, store: Store) -> None:
    sha256 = await registered(store, weights=hashlib.sha256(b"x").digest())
    store.open.clear()
    asking = asyncio.create_task(contents(cache_of(tmp_path, store), sha256))
    await until(lambda: bool(store.asked))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert folders(tmp_path) == []
    store.open.set()
    assert len(await contents(cache_of(tmp_path, store), sha256)) == 1
