"""Kept pictures on the command line, against the real doors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from modelmora.cli.__main__ import program
from modelmora.errors import DependencyUnavailable, InvalidInput
from tests.doors.client_kept import Urls, doors
from tests.doors.test_http_dead_letters import unread
from tests.fakes import CLIP, World
from tests.galleries import Kit


class Served:
    """The doors in a thread of their own, as a command has a loop of its own."""

    def __init__(self, kit: Kit, loop: asyncio.AbstractEventLoop) -> None:
        self.kit = kit
        self._loop = loop

    def do(self, work: Any) -> Any:
        """What a coroutine answers, in the loop of the doors."""
        return self.begin(work).result(30)

    def begin(self, work: Any) -> Future[Any]:
        """The same, without waiting."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


@contextmanager
def serving(kit: Kit) -> Iterator[tuple[Served, Urls]]:
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    served = Served(kit, loop)
    around = doors("grpc", kit)
    urls = served.do(around.__aenter__())
    try:
        yield served, urls
    finally:
        served.do(around.__aexit__(None, None, None))
        served.do(kit.world.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    with capture_logs(), serving(Kit(world=World())) as (served, urls):  # what a server says is not a command's output
        monkeypatch.setenv("MODELMORA_URL", urls.url)
        monkeypatch.setenv("MODELMORA_CONTROL_URL", urls.control_url)
        yield served


def run(*arguments: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], **options)


def done(*arguments: str | Path, **options: Any) -> list[str]:
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def told(*arguments: str | Path, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done(*arguments, "--json", **options)]


@pytest.mark.usefixtures("served")
def test_pictures_are_brought_and_found() -> None:
    lines = done("upload", ".", "--tag", "pet", "--metadata", "legs=4", "--metadata", "name=Tom")
    assert [(line.split()[0], line.split()[2]) for line in lines] == [("cat.png", "indexed"), ("dog.png", "indexed")]
    (again,) = done("upload", "cat.png")
    assert again.endswith("indexed  known already")

    heads, first, second = done("search", "a", "cat", "--limit", "2")
    assert heads.split() == ["SCORE", "ID", "FILENAME", "TAGS", "METADATA"]
    assert {first.split()[2], second.split()[2]} == {"cat.png", "dog.png"}
    best = told("search", "cat", "--tag", "pet", "--where", 'legs={"gte": 4}', "--where", "name=Tom")[0]
    assert (best["filename"], best["tags"], best["metadata"]) == ("cat.png", ["pet"], {"legs": 4, "name": "Tom"})
    assert [hit["filename"] for hit in told("search", "--id", best["id"])] == ["dog.png"]
    assert told("search", "--image", "dog.png", "--exact", "--model", "clip")[0]["filename"] == "dog.png"
    assert done("search", "cat", "--where", "legs=5") == ["nothing was found"]


@pytest.mark.usefixtures("served")
def test_the_next_page_is_told_with_its_cursor() -> None:
    done("upload", "cat.png", "dog.png")
    page = run("search", "cat", "--limit", "1")
    (said,) = page.stderr.splitlines()
    cursor = said.removeprefix("more: --cursor ")
    first, follows = told("search", "cat", "--limit", "1")
    (last,) = told("search", "cat", "--limit", "1", "--cursor", cursor)
    assert (first["filename"], follows, last["filename"]) == ("cat.png", {"next_cursor": cursor}, "dog.png")


def test_what_failed_is_told_with_its_name(served: Served, tmp_path: Path) -> None:
    served.kit.looks.fails = {b"cat": InvalidInput("torn", expected="a whole picture")}
    several, one = run("upload", "cat.png", "dog.png"), run("upload", "cat.png")
    assert (several.exit_code, one.exit_code) == (1, 1)
    assert "cat.png: torn" in several.stderr
    assert several.stderr.splitlines()[-1] == "error: 1 of 2 failed"
    assert one.stderr == "error: torn; expected a whole picture [invalid_input]\n"
    lines = run("upload", "cat.png", "dog.png", "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"path": "cat.png", "error": {"code": "invalid_input", "detail": "torn"}}
    assert json.loads(lines[1])["image"]["state"] == "indexed"
    (tmp_path / "empty").mkdir()
    nothing = run("upload", "empty")
    assert (nothing.exit_code, "no pictures in empty" in nothing.stderr) == (2, True)


@pytest.mark.usefixtures("served")
def test_what_is_wrong_with_all_of_them_ends_the_run() -> None:
    result = run("upload", "cat.png", "dog.png", "--collection", "Not A Name")
    assert result.exit_code == 1
    assert "not the name of a collection" in result.stderr
    assert "run the command again" in result.stderr


def test_a_server_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    result = run("upload", tmp_path, "--url", "grpc://127.0.0.1:1", "--timeout", "2")
    assert result.exit_code == 1
    assert result.stderr.count("no answer from") == 1
    assert "start a server with `modelmora serve`" in result.stderr


def test_who_does_not_wait_and_who_names_objects(served: Served) -> None:
    (line,) = told("upload", "cat.png", "--no-wait", "--ttl", "60")
    assert line["image"]["state"] == "registered"
    result = run("upload", "s3://nowhere/key.png")
    assert result.exit_code == 1
    assert "internal" not in result.stderr


@pytest.mark.usefixtures("served")
def test_kept_pictures_are_listed_shown_and_removed(tmp_path: Path) -> None:
    done("upload", "cat.png", "dog.png", "--tag", "pet", "--metadata", "legs=4")
    heads, *rows = done("images", "list", "--tag", "pet", "--state", "indexed")
    assert heads.split()[:3] == ["ID", "STATE", "SIZE"]
    assert [row.split()[1] for row in rows] == ["indexed", "indexed"]
    assert len(done("images", "list", "--last", "1")) == 2
    ids = {one["filename"]: one["id"] for one in told("images", "list", "--all")}

    shown = done("images", "show", ids["cat.png"], "--out", "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == b"cat"
    assert "legs         4" in shown
    assert f"way          {CLIP.key}  indexed" in shown
    assert told("images", "show", ids["dog.png"])[0]["ways"][0]["state"] == "indexed"
    assert run("images", "show", ids["cat.png"], "--out", "no/where.png").exit_code == 1

    assert done("images", "delete", ids["cat.png"]) == ["1 removed"]
    gone = run("images", "delete", ids["cat.png"])
    assert (gone.exit_code, "image_not_found" in gone.stderr) == (1, True)
    assert told("images", "delete", ids["cat.png"], ids["dog.png"]) == [{"removed": 1}]


@pytest.mark.usefixtures("served")
def test_many_are_removed_only_by_who_says_so() -> None:
    done("upload", "cat.png", "dog.png", "--tag", "pet")
    assert run("images", "delete").exit_code == 2
    assert run("images", "delete", "some-id", "--tag", "pet").exit_code == 2
    assert run("images", "delete", "--tag", "pet", input="n\n").exit_code == 1
    assert len(told("images", "list")) == 2
    assert told("images", "delete", "--tag", "pet", "--older-than", "0", "--yes") == [
        {"removed": 0}
    ]  # they are of 2030
    assert told("images", "delete", "--tag", "pet", "--state", "indexed", "--yes") == [{"removed": 2}]
    assert told("images", "list") == []


def test_what_went_wrong_with_a_picture_is_shown(served: Served) -> None:
    served.kit.world.embedder.raises = DependencyUnavailable("nobody is there", retry_after_s=1.0)
    (line,) = told("upload", "cat.png")
    assert line["image"]["state"] == "retrying"
    shown = done("images", "show", line["image"]["id"])
    assert f"way          {CLIP.key}  retry_wait after 1 failed tries: nobody is there" in shown


def test_dead_letters_are_read_replayed_and_forgotten(served: Served) -> None:
    letters = [unread("1", value=b'\x1b[31m{"a": 1}\xff'), unread("2", code="artifact_corrupt", detail="x" * 90)]
    served.do(served.kit.database.dead_letters.add(letters))

    heads, *rows = done("dlq", "list")
    assert (heads.split()[:3], len(rows)) == (["ID", "FAILED", "CODE"], 2)
    assert any(row.endswith("x...") for row in rows)
    assert [one["id"] for one in told("dlq", "list", "--code", "artifact_corrupt", "--all")] == ["2"]
    shown = done("dlq", "show", "1")
    assert r'message      \x1b[31m{"a": 1}\xff' in shown
    assert told("dlq", "show", "1")[0]["value"] == r'\x1b[31m{"a": 1}\xff'
    assert done("dlq", "replay", "1") == ["1 taken in anew"]
    assert told("dlq", "replay", "--code", "artifact_corrupt") == [{"replayed": 1}]
    assert told("dlq", "replay", "--all") == [{"replayed": 0}]
    for wrong in ((), ("1", "--all"), ("--code", "a", "--all")):
        assert run("dlq", "replay", *wrong).exit_code == 2
    assert done("dlq", "remove", "1", "2") == ["2 forgotten"]
    assert run("dlq", "remove", "1").exit_code == 1


def test_a_model_is_indexed_anew(served: Served) -> None:
    done("upload", "cat.png", "dog.png")
    assert [line.split()[2] for line in done("indexes")[1:]] == ["live"]
    heads, row = done("reindex", "vit", "--version", "1.0.0", "--no-switch")
    assert (heads.split()[0], row.split()[:3]) == ("MODEL", ["vit@1.0.0", "default", "building"])
    assert run("indexes", "switch", "vit@1.0.0").exit_code == 1
    served.do(served.kit.fill())
    assert done("indexes", "switch", "vit@1.0.0") == ["searches of vit go to vit@1.0.0 now"]
    assert {one["model"]: one["done"] for one in told("indexes", "--collection", "default")} == {"clip": 2, "vit": 2}

    async def filling() -> None:
        served.kit.book.begun.clear()
        await served.kit.book.begun.wait()
        await served.kit.fill()

    background = served.begin(filling())
    steps = told("reindex", "vit@2.0.0-rc.1", "--wait")
    background.result(30)
    assert (steps[0]["state"], steps[-1]["state"], steps[-1]["done"]) == ("building", "live", 2)
    assert done("indexes", "drop", "vit@1.0.0") == ["the index of vit@1.0.0 is gone"]
    assert run("indexes", "drop", "vit@2.0.0-rc.1").exit_code == 1
    assert told("indexes", "switch", "clip@1.0.0")[0]["state"] == "live"


@pytest.mark.usefixtures("served")
def test_a_question_without_anything_is_wrong_usage() -> None:
    assert run("search").exit_code == 2
    assert run("search", "--limit", "0", "cat").exit_code == 2
    assert run("search", "--where", "legs", "cat").exit_code == 2
