"""The programs of docs/other-languages.md, run as they stand against a server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.serving import ROOT, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a first build of Go's library takes a while
PAGE = ROOT / "docs" / "other-languages.md"
RUNS = {"js": ("node", "program.mjs", ["node"]), "go": ("go", "program.go", ["go", "run"])}


def program(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize("language", RUNS)
def test_a_program_tells_pictures_apart_and_what_was_wrong(shipped: Server, tmp_path: Path, language: str) -> None:
    tool, name, command = RUNS[language]
    if shutil.which(tool) is None:
        assert not os.environ.get("CI"), f"{tool} is not here"
        pytest.skip(f"!!! {tool} is not here: the example in {language} is not tried")
    (tmp_path / name).write_text(program(language))
    env = {**os.environ, "MODELMORA_CONTROL_URL": shipped.url}
    ran = subprocess.run(
        [*command, str(tmp_path / name)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.strip().splitlines()
    assert first == "the first is a red circle"
    assert second.startswith("validation: "), second
    assert re.search(r"\(request [0-9a-f-]{36}\)$", second)
