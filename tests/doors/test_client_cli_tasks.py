"""`modelmora classify`, `segment` and `compare` against a real server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from modelmora.cli.__main__ import program
from modelmora.errors import InvalidInput, ModelNotFound
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(autouse=True)
def server(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with grpc_server(script) as url:
        monkeypatch.setenv("MODELMORA_URL", url)
        yield


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two pictures (by their suffix)."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        Path(name).write_bytes(f"bytes of {name}".encode())
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments)


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_pictures_are_classified_by_the_models_labels_or_ones_own() -> None:
    result = run("classify", "a.jpg", "b.jpg")
    assert (result.exit_code, result.stdout) == (
        0,
        "a.jpg  shapes-clip@1.0.0  cat 0.7500, dog 0.2500\nb.jpg  shapes-clip@1.0.0  cat 0.7500, dog 0.2500\n",
    )
    own = run("classify", "a.jpg", "--labels", "red circle, blue square,", "--label", "a, b", "--top-k", "3", "--json")
    (line,) = lines(own)
    assert line == {
        "path": "a.jpg",
        "model": "shapes-clip",
        "version": "1.0.0",
        "classes": [
            {"index": 0, "label": "red circle", "score": 0.75},
            {"index": 1, "label": "blue square", "score": 0.25},
            {"index": 2, "label": "a, b", "score": pytest.approx(0.25 / 3)},
        ],
    }


def test_a_folder_is_classified_in_parts_and_failures_are_listed(script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(70):
        (folder / f"{index:02}.png").write_bytes(f"picture {index}".encode())
    script.bad = frozenset({b"picture 69"})
    result = run("classify", str(folder))
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 69
    assert f"{folder / '69.png'}: the picture is cut off" in result.stderr
    assert "1 of 70 failed" in result.stderr
    assert [len(seen.items) for seen in script.requests] == [32, 32, 6]
    assert {seen.headers["x-modelmora-priority"] for seen in script.requests} == {"bulk"}
    assert lines(run("classify", str(folder), "--json"))[69]["error"] == {
        "code": "invalid_input",
        "detail": "the picture is cut off",
    }


def test_what_every_picture_would_meet_ends_the_run(script: Script) -> None:
    script.troubles = deque([ModelNotFound("no model 'x'")])
    result = run("classify", "a.jpg", "b.jpg", "--model", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no model 'x' [model_not_found]")
    assert run("classify").exit_code == 2
    assert "cannot read absent.jpg" in run("classify", "absent.jpg").stderr


def test_points_and_a_box_are_cut_out_into_a_picture_file(here: Path) -> None:
    result = run("segment", "a.jpg", "--point", "1,0.5", "--background", "0,0", "--box", "0,0,4,2", "-o", "masks")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["PROMPT", "MASK", "SCORE", "AREA", "BOX", "FILE"],
        ["0", "0", "0.5000", "8", "0,0,4,2", "masks/a-0-0.png"],
    ]
    picture = np.array(Image.open(here / "masks" / "a-0-0.png"))
    assert picture.shape == (2, 4)
    assert picture.all()


def test_boxes_are_a_prompt_each_and_everything_is_without_prompts(here: Path) -> None:
    found = lines(run("segment", "a.jpg", "--box", "0,0,4,2", "--box", "0,0,2,2", "--json"))
    assert sorted(line["index"] for line in found) == [0, 1]  # type: ignore[type-var] # they are integers
    everything = run("segment", "a.jpg", "--everything", "--points-per-side", "4", "--output", "deep/below", "--json")
    (second, first) = lines(everything)
    assert second == {
        "index": 1,
        "model": "sam",
        "version": "1.0.0",
        "height": 2,
        "width": 4,
        "masks": [
            {
                "score": 0.75,
                "area": 8,
                "box": [0.0, 0.0, 4.0, 2.0],
                "rle": {"size": [2, 4], "counts": "08"},
                "stability": 0.96,
                "file": "deep/below/a-1.png",
            }
        ],
    }
    assert first["index"] == 0
    assert sorted(path.name for path in (here / "deep" / "below").iterdir()) == ["a-0.png", "a-1.png"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "give a --point"),
        (("--point", "1"), "is not 2 numbers"),
        (("--point", "1,nan"), "is not 2 numbers"),
        (("--box", "1,2,3,x"), "is not 4 numbers"),
        (("--everything", "--point", "1,2"), "instead of points"),
        (("--points-per-side", "4", "--point", "1,2"), "for --everything"),
        (("--point", "1,2", "--box", "0,0,1,1", "--box", "1,1,2,2"), "points belong to one box"),
        (("--background", "1,2"), "give a --point"),
    ],
)
def test_what_cannot_be_asked_of_a_picture_is_wrong_usage(options: tuple[str, ...], told: str) -> None:
    result = run("segment", "a.jpg", *options)
    assert (result.exit_code, told in result.stderr) == (2, True)


def test_a_prompt_that_fails_fails_the_command(script: Script) -> None:
    inverted = run("segment", "a.jpg", "--box", "4,0,0,2")
    assert (inverted.exit_code, "inverted" in inverted.stderr) == (1, True)
    some = run("segment", "a.jpg", "--box", "4,0,0,2", "--box", "0,0,4,2")
    assert some.exit_code == 1
    assert "prompt 0: the box is inverted" in some.stderr
    assert "1 of 2 failed" in some.stderr
    assert "0.5000" in some.stdout
    script.troubles = deque([InvalidInput("the picture is cut off")])
    assert "the picture is cut off" in run("segment", "a.jpg", "--point", "1,1").stderr
    assert "cannot read absent.jpg" in run("segment", "absent.jpg", "--point", "1,1").stderr


def test_models_are_compared_in_a_table_and_a_matrix_each() -> None:
    result = run("compare", "shapes-clip", "vit-b-32", "a.jpg", "--text", "a cat")
    assert result.exit_code == 0
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "MODEL DIMENSION MEMORY TOTAL MS INFERENCE MS FAILED",
        "shapes-clip@1.0.0 4 12 MiB 35.0 30.0",
        "vit-b-32@1.0.0 4 12 MiB 35.0 30.0",
        "",
        "shapes-clip@1.0.0",
        "0 1",
        "0 a.jpg 1.000 0.500",
        "1 a cat 0.500 1.000",
        "",
        "vit-b-32@1.0.0",
        "0 1",
        "0 a.jpg 1.000 0.500",
        "1 a cat 0.500 1.000",
    ]


def test_a_model_or_an_item_that_fails_is_told(script: Script) -> None:
    script.bad = frozenset({b"bytes of b.jpg"})
    result = run("compare", "shapes-clip", "absent", "./a.jpg", "b.jpg")
    assert result.exit_code == 1
    assert "absent: no model 'absent' [model_not_found]" in result.stderr
    assert "shapes-clip: b.jpg: the picture is cut off [invalid_input]" in result.stderr
    assert "1 b.jpg  -" in result.stdout
    one, absent = lines(run("compare", "shapes-clip", "absent", "a.jpg", "b.jpg", "--json"))
    assert one["similarities"] == [[1.0, None], [None, None]]
    assert one["items"] == [
        {"path": "a.jpg"},
        {"path": "b.jpg", "error": {"code": "invalid_input", "detail": "the picture is cut off"}},
    ]
    assert absent == {"model": "absent", "error": {"code": "model_not_found", "detail": "no model 'absent'"}}
    alone = run("compare", "absent", "a.jpg")
    assert alone.stderr.startswith("error: no model 'absent' [model_not_found]\n  -> `modelmora models`")


def test_more_items_than_a_terminal_shows_have_no_matrix() -> None:
    texts = [option for index in range(11) for option in ("--text", f"text {index}")]
    result = run("compare", "shapes-clip", *texts)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "similarities of more than 10 items: see --json"


def test_models_and_pictures_are_told_apart(here: Path) -> None:
    (here / "vit").mkdir()  # the first name is a model even so
    assert run("compare", "vit", "a.jpg").exit_code == 0
    for wrong in (["shapes-clip"], ["shapes-clip", "vit-b-32"], ["clip", "clip", "a.jpg"]):
        assert run("compare", *wrong).exit_code == 2
    missing = run("compare", "shapes-clip", "absent.jpg")
    assert "cannot read absent.jpg" in missing.stderr


def test_no_command_needs_numpy_or_pillow(here: Path) -> None:
    """The wheel alone writes masks and matrices."""
    script = (
        "import sys; sys.modules['numpy'] = sys.modules['PIL'] = None\n"
        "from modelmora.cli.__main__ import program\n"
        "program(sys.argv[1:])"
    )
    for arguments in (["segment", "a.jpg", "--point", "1,1", "-o", "masks"], ["compare", "shapes-clip", "a.jpg"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert Image.open(io.BytesIO((here / "masks" / "a-0-0.png").read_bytes())).mode == "1"
