"""The command line against real servers."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from modelmora.cli.__main__ import program
from modelmora.errors import ModelNotFound, Overloaded
from tests.doors.client_plane import STEPS, Plane, model_entry, report_entry, tuned_entry
from tests.doors.client_script import Script, Seen, vector_of
from tests.doors.client_servers import grpc_server, http_server
from tests.doors.client_servicer import PROGRESS


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def servers(script: Script, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with grpc_server(script) as url, http_server(script, plane) as control_url:
        monkeypatch.setenv("MODELMORA_URL", url)
        monkeypatch.setenv("MODELMORA_CONTROL_URL", control_url)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures (by their suffix), one in a folder below, and a file that is none."""
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "c.webp", "d.jpeg", "below/e.gif", "notes.txt"):
        (pictures / name).write_bytes(f"bytes of {name}".encode())
    return pictures


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


def components(content: bytes) -> list[float]:
    return [*struct.unpack("<4f", vector_of(content))]


@pytest.mark.usefixtures("servers")
def test_one_picture_is_printed_shortly_or_as_json(folder: Path) -> None:
    short = run("embed", folder / "a.jpg")
    assert short.exit_code == 0
    assert "shapes-clip@1.0.0  4  [" in short.stdout
    line = json.loads(run("embed", "--json", "--model", "vit-b-32", folder / "a.jpg").stdout)
    assert line == {
        "path": str(folder / "a.jpg"),
        "model": "vit-b-32",
        "version": "1.0.0",
        "dimension": 4,
        "embedding": components(b"bytes of a.jpg"),
    }


@pytest.mark.usefixtures("servers")
def test_a_text_is_embedded_too(script: Script) -> None:
    assert json.loads(run("embed", "--json", "--text", "a red circle").stdout)["text"] == "a red circle"
    assert script.embedded == [b"a red circle"]


@pytest.mark.usefixtures("servers")
def test_progress_is_shown_for_one_thing(folder: Path, tmp_path: Path) -> None:
    *steps, last = [
        json.loads(line) for line in run("embed", "--progress", "--json", folder / "a.jpg").stdout.splitlines()
    ]
    assert [(step["stage"], step["percent"]) for step in steps] == [*PROGRESS]
    assert last["embedding"] == components(b"bytes of a.jpg")
    assert "shapes-clip@1.0.0  4  [" in run("embed", "--progress", "--text", "a cat").stdout

    for wrong in ([folder], [folder / "a.jpg", "-o", tmp_path / "x.npz"]):
        result = run("embed", "--progress", *wrong)
        assert (result.exit_code, "--progress is for one" in result.stderr) == (2, True)


@pytest.mark.usefixtures("servers")
def test_progress_that_ends_in_an_error_says_so(folder: Path, script: Script) -> None:
    script.bad = frozenset({b"bytes of a.jpg"})
    result = run("embed", "--progress", folder / "a.jpg")
    assert result.exit_code == 1
    assert "the picture is cut off" in result.stderr


@pytest.mark.usefixtures("servers")
def test_a_folder_becomes_one_file_of_each_kind(folder: Path, tmp_path: Path) -> None:
    for suffix in (".npz", ".parquet", ".jsonl"):
        result = run("embed", folder, "-r", "--output", tmp_path / f"x{suffix}")
        assert (result.exit_code, result.stdout) == (
            0,
            f"5 embeddings of shapes-clip@1.0.0 in {tmp_path / f'x{suffix}'}\n",
        )
    names = ["a.jpg", "b.PNG", "c.webp", "d.jpeg", "below/e.gif"]
    vectors = [components(f"bytes of {name}".encode()) for name in names]

    npz = np.load(tmp_path / "x.npz")
    assert npz["path"].tolist() == [str(folder / name) for name in names]
    assert npz["embedding"].tolist() == vectors
    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert (table["path"], table["embedding"]) == ([str(folder / name) for name in names], vectors)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["embedding"] for line in lines] == vectors
    assert not list(tmp_path.glob("*.partial.jsonl"))


@pytest.mark.usefixtures("servers")
def test_without_r_the_folders_below_are_left_out(folder: Path, script: Script) -> None:
    assert run("embed", folder).exit_code == 0
    assert len(script.embedded) == 4


@pytest.mark.usefixtures("servers")
def test_failures_are_listed_and_the_next_run_sends_only_those(folder: Path, tmp_path: Path, script: Script) -> None:
    script.bad = frozenset({b"bytes of b.PNG"})
    output = tmp_path / "x.npz"
    result = run("embed", folder, "-o", output)
    assert result.exit_code == 1
    assert f"{folder / 'b.PNG'}: the picture is cut off" in result.stderr
    assert "1 of 4 failed" in result.stderr
    assert len(np.load(output)["path"]) == 3

    script.bad = frozenset()
    script.requests.clear()
    assert run("embed", folder, "-o", output).exit_code == 0
    assert script.embedded == [b"bytes of b.PNG"]
    assert len(np.load(output)["path"]) == 4


@pytest.mark.usefixtures("servers")
def test_json_tells_what_failed_in_its_place(folder: Path, tmp_path: Path, script: Script) -> None:
    script.bad = frozenset({b"bytes of a.jpg"})
    lines = [json.loads(line) for line in run("embed", "--json", folder).stdout.splitlines()]
    assert lines[0] == {
        "path": str(folder / "a.jpg"),
        "error": {"code": "invalid_input", "detail": "the picture is cut off"},
    }
    summary = json.loads(run("embed", "--json", folder, "-o", tmp_path / "x.jsonl").stdout)
    assert (summary["done"], [each["path"] for each in summary["failed"]]) == (3, [str(folder / "a.jpg")])


@pytest.mark.usefixtures("servers")
def test_a_run_goes_on_where_the_server_left_it(folder: Path, tmp_path: Path, script: Script) -> None:
    output = tmp_path / "x.npz"
    script.before = _only(script, 2)
    stopped = run("embed", folder, "-r", "-o", output, "--concurrency", "1")
    assert stopped.exit_code == 1
    assert "no model of that name any more [model_not_found]" in stopped.stderr
    assert "2 of 5 are done: run the same command again to go on" in stopped.stderr
    assert not output.exists()

    script.before = lambda seen: None
    script.requests.clear()
    (folder / "a.jpg").write_bytes(b"another picture of a")
    assert run("embed", folder, "-r", "-o", output).exit_code == 0
    assert sorted(script.embedded) == [
        b"another picture of a",  # changed since
        b"bytes of below/e.gif",
        b"bytes of c.webp",
        b"bytes of d.jpeg",
    ]
    assert len(np.load(output)["path"]) == 5


@pytest.mark.usefixtures("servers")
def test_another_version_begins_anew(folder: Path, tmp_path: Path, script: Script, plane: Plane) -> None:
    script.before = _only(script, 2)
    run("embed", folder, "-o", tmp_path / "x.npz", "--concurrency", "1")
    script.before = lambda seen: None
    script.requests.clear()
    plane.models = [model_entry(version="2.0.0")]
    assert run("embed", folder, "-o", tmp_path / "x.npz").exit_code == 0
    assert len(script.embedded) == 4
    assert set(np.load(tmp_path / "x.npz")["model"]) == {"shapes-clip@2.0.0"}


@pytest.mark.usefixtures("servers")
def test_a_killed_run_keeps_what_it_did(folder: Path, tmp_path: Path, script: Script) -> None:
    third, go_on = threading.Event(), threading.Event()

    def hold_the_third(seen: Seen) -> None:
        if len(script.requests) == 3:
            third.set()
            go_on.wait(10)

    script.before = hold_the_third
    command = [sys.executable, "-m", "modelmora.cli", "embed", str(folder), "-o", str(tmp_path / "x.npz")]
    process = subprocess.Popen([*command, "--concurrency", "1"])
    assert third.wait(20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    go_on.set()
    script.requests.clear()
    assert run("embed", folder, "-o", tmp_path / "x.npz").exit_code == 0
    assert sorted(script.embedded) == [b"bytes of c.webp", b"bytes of d.jpeg"]


@pytest.mark.usefixtures("servers")
def test_an_interrupted_run_says_how_to_go_on(folder: Path, tmp_path: Path, script: Script) -> None:
    taken, go_on = threading.Event(), threading.Event()

    def hold(seen: Seen) -> None:
        taken.set()
        go_on.wait(10)

    script.before = hold
    command = [sys.executable, "-m", "modelmora.cli", "embed", str(folder), "-o", str(tmp_path / "x.npz")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert taken.wait(20)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    go_on.set()
    assert process.returncode == 1
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr


@pytest.mark.usefixtures("servers")
def test_a_timeout_is_the_deadline_of_each_picture(folder: Path, script: Script) -> None:
    lines = [json.loads(line) for line in run("embed", "--json", "--timeout", "30", folder).stdout.splitlines()]
    assert [line["path"] for line in lines] == [str(folder / name) for name in ("a.jpg", "b.PNG", "c.webp", "d.jpeg")]

    go_on = threading.Event()

    def hold(seen: Seen) -> None:
        go_on.wait(10)

    script.before = hold
    late = run("embed", "--timeout", "0.3", folder / "a.jpg")
    go_on.set()
    assert late.exit_code == 1
    assert "[deadline_exceeded]" in late.stderr
    assert "--timeout SECONDS" in late.stderr


@pytest.mark.usefixtures("servers")
def test_a_timeout_may_be_longer_than_the_time_that_a_server_usually_gives(script: Script) -> None:
    url = os.environ["MODELMORA_CONTROL_URL"]
    assert run("embed", "--url", url, "--text", "x", "--timeout", "300").exit_code == 0
    assert 240_000 < int(script.requests[0].headers["x-modelmora-timeout-ms"]) <= 300_000


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("more", [(), ("--json",), ("--timeout", "30")])
def test_a_text_that_is_no_unicode_fails_and_hangs_nothing(more: tuple[str, ...], script: Script) -> None:
    command: list[str | bytes] = [
        sys.executable,
        "-m",
        "modelmora.cli",
        "embed",
        *more,
        "--text",
        b"caf\xe9",
        "--text",
        "fine",
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert process.returncode == 1
    assert "1 of 2 failed" in process.stderr
    assert script.embedded == [b"fine"]
    if "--json" in more:
        failed, fine = (json.loads(line) for line in process.stdout.splitlines())
        assert (failed["text"], failed["error"]["code"], fine["text"]) == ("caf\udce9", "invalid_input", "fine")
    else:
        assert "the text is no Unicode" in process.stderr


@pytest.mark.usefixtures("servers")
def test_models_are_a_table_or_json() -> None:
    table = run("models").stdout.splitlines()
    assert table[0].split() == ["MODEL", "TYPE", "STATE", "SIZE", "DEVICE", "PRECISION", "GROUP", "DEFAULT"]
    assert " ".join(table[1].split()) == "shapes-clip@1.0.0 embedding loaded (1) 12 MiB cpu fp32 default yes"
    assert json.loads(run("models", "--json").stdout)["data"][1]["name"] == "vit-b-32"
    one = run("models", "shapes-clip").stdout
    assert "bytes      12 MiB" in one
    assert json.loads(run("models", "shapes-clip", "--json").stdout)["engine"] == "torch"


@pytest.mark.usefixtures("servers")
def test_load_unload_and_warmup_tell_what_happened() -> None:
    assert run("load", "vit-b-32").stdout == "vit-b-32@1.0.0 loaded  on default-1  12 MiB  1.2 s\n"
    assert json.loads(run("unload", "vit-b-32", "--json", "--no-wait").stdout)["state"] == "unloading"
    assert "loaded" in run("warmup", "vit-b-32@1.0.0", "--timeout", "5").stdout


@pytest.mark.usefixtures("servers")
def test_pull_tells_size_and_licence(plane: Plane) -> None:
    assert run("pull", "vit-b-32").stdout == "vit-b-32@1.0.0  4 KiB  licence: MIT\n"
    assert len(run("pull", "vit-b-32", "--json").stdout.splitlines()) == 2
    plane.pull.pop()
    torn = run("pull", "vit-b-32")
    assert (torn.exit_code, "before vit-b-32 was complete" in torn.stderr) == (1, True)


@pytest.mark.usefixtures("servers")
def test_verify_shows_a_table_and_fails_when_what_is_loaded_is_below_the_gate(plane: Plane) -> None:
    well = run("verify", "shapes-clip")
    assert (well.exit_code, well.stdout.splitlines()) == (
        0,
        [
            "shapes-clip@1.0.0 on cpu, loaded as torch fp32 (declared: auto auto)",
            "ENGINE    PRECISION  IMAGES    TEXTS     NEIGHBOURS KEPT  LARGEST DIFFERENCE  MS A BATCH  VERDICT",
            "torch     fp32       1.000000  1.000000  100.0 %          0                   42.0        reference",
            "openvino  bf16       0.999910  0.999910  98.8 %           0.0031              20.5        passes",
            "gate: cosine >= 0.999; with `auto` the next load takes openvino bf16",
        ],
    )
    assert json.loads(run("verify", "shapes-clip", "--json").stdout.splitlines()[-1]) == report_entry()
    plane.findings[-1] = report_entry(passes=False, precision="bf16")
    assert run("verify", "shapes-clip").exit_code == 1
    plane.findings[-1]["candidates"][1] |= {"likeness": {}, "ms": {}, "failed": "not for this CPU"}
    assert "bf16" in run("verify", "shapes-clip").stdout
    assert "failed: not for this CPU" in run("verify", "shapes-clip").stdout
    plane.findings.pop()
    torn = run("verify", "shapes-clip")
    assert (torn.exit_code, "before shapes-clip was verified" in torn.stderr) == (1, True)


@pytest.mark.usefixtures("servers")
def test_tune_shows_a_table_and_what_to_write_into_the_registry(plane: Plane) -> None:
    plane.findings = [*STEPS, tuned_entry()]
    well = run("tune", "shapes-clip")
    assert well.exit_code == 0
    first, heads, one, best, *settings = [" ".join(line.split()) for line in well.stdout.splitlines()]
    assert first == "shapes-clip@1.0.0, embed_image on cpu by torch in fp32"
    assert heads == "BATCH LANES x THREADS ITEMS/S MS A BATCH MS ALONE MEMORY"
    assert one == "1 1 x 2 40.0 25.0 12.5 3 MiB unsteady"
    assert best == "4 2 x 1 80.0 100.0 12.5 3 MiB best"
    assert settings[-1] == "models: [{name: shapes-clip, batching: {max_batch: 4}}]"
    assert plane.requests == [("POST", "/api/v1/models/shapes-clip/tune")]

    lines = [json.loads(line) for line in run("tune", "shapes-clip", "--json").stdout.splitlines()]
    assert lines == plane.findings
    plane.findings.pop()
    torn = run("tune", "shapes-clip")
    assert (torn.exit_code, "before shapes-clip was tuned" in torn.stderr) == (1, True)


@pytest.mark.usefixtures("servers")
def test_health_is_told_and_down_is_a_failure(plane: Plane) -> None:
    well = run("health")
    assert well.stdout.splitlines()[0] == "ok  version 0.1.0  up 1h02m03s"
    plane.health = (503, {"status": "down", "dependencies": {"database": {"status": "down", "error": "locked"}}})
    down = run("health")
    assert down.exit_code == 1
    assert "database: down: locked" in down.stdout
    assert json.loads(run("health", "--json").stdout)["status"] == "down"


@pytest.mark.usefixtures("servers")
def test_a_busy_server_is_told_with_what_to_do(folder: Path, script: Script) -> None:
    script.troubles = deque(Overloaded("the queue is full", retry_after_s=0.01) for _ in range(9))
    result = run("embed", folder / "a.jpg")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: the queue is full [overloaded]\n"
        "  -> the server is busy: try again later, or with a lower --concurrency\n"
    )


@pytest.mark.usefixtures("servers")
def test_the_token_is_taken_from_the_environment(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_TOKEN", "secret")
    run("embed", "--text", "x")
    assert script.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.usefixtures("servers")
def test_a_server_without_a_default_asks_for_a_model(folder: Path, tmp_path: Path, plane: Plane) -> None:
    plane.models = [model_entry("vit-b-32")]
    result = run("embed", folder, "-o", tmp_path / "x.npz")
    assert result.exit_code == 1
    assert "name one with --model" in result.stderr


NOWHERE = ("--url", "grpc://127.0.0.1:1", "--control-url", "http://127.0.0.1:1")


@pytest.mark.parametrize("command", [("models",), ("health",), ("embed", "--text", "x"), ("pull", "x"), ("load", "x")])
def test_no_server_is_told_with_how_to_start_one(command: tuple[str, ...]) -> None:
    result = run(*command, *NOWHERE)
    first, second = result.stderr.splitlines()
    assert result.exit_code == 1
    assert first.startswith("error: no answer from ")
    assert "[dependency_unavailable]" in first
    assert "make serve" in second


def test_no_server_is_told_without_a_traceback_by_the_process_itself() -> None:
    command = [sys.executable, "-m", "modelmora.cli", "embed", "--text", "x", *NOWHERE]
    process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("error: no answer from 127.0.0.1:1: ")
    assert len(process.stderr.splitlines()) == 2


def _only(script: Script, times: int) -> Callable[[Seen], None]:
    """After so many requests the model is gone."""

    def meet(seen: Seen) -> None:
        if len(script.requests) > times:
            raise ModelNotFound("no model of that name any more")

    return meet
