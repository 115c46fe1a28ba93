"""What the benchmark tells of the machine."""

from __future__ import annotations

import pytest

from load.bench import machine
from runners import devices


def test_the_cores_are_those_that_the_cgroup_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cgroup", lambda name: "100000 100000" if name == "cpu.max" else "")

    assert machine.facts()["cores"] == 1
