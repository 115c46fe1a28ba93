"""Each part is killed once while pictures are announced: the command that shows that none is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.serving import ROOT
from tests.support import required_in_ci


def chaos(pictures: int, within_s: float) -> str:
    command = [sys.executable, "-m", "load.chaos", "--pictures", str(pictures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)
    if done.returncode == 2:
        required_in_ci(done.stderr)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_sixty_pictures_are_accounted_for() -> None:
    assert "HELD" in chaos(60, 800)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_thousand_pictures_are_accounted_for() -> None:
    said = chaos(1_000, 1700)
    assert "HELD" in said
    assert "990 indexed exactly once, 10 in the dead letters" in said
