"""What make is asked for is really made: a target without a rule does nothing and says nothing."""

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def test_every_target_that_is_named_phony_has_a_rule() -> None:
    lines = (HERE / "Makefile").read_text().splitlines()
    (phony,) = (line.partition(":")[2].split() for line in lines if line.startswith(".PHONY:"))
    ruled = {line.partition(":")[0] for line in lines if re.match(r"[a-z-]+:", line)}
    assert sorted(set(phony) - ruled) == []


def test_components_brings_what_the_real_servers_need() -> None:
    done = subprocess.run(["make", "-nB", "components"], cwd=HERE, capture_output=True, text=True, check=True)
    for told in (
        "requirements/components.txt",
        "dependency:copy-dependencies",
        "chromium-driver",
        "prometheus-alertmanager",
    ):
        assert told in done.stdout, told
