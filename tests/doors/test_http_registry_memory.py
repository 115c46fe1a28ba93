"""A file of a gigabyte, in and out of a server's process: memory does not grow with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.doors.registry_process import registry_process
from tests.support import only_on_linux

SIZE, MOST = 2**30, 100 * 10**6
BLOCK = os.urandom(2**20)


def blocks() -> Iterator[bytes]:
    for number in range(SIZE // len(BLOCK)):
        yield number.to_bytes(8, "big") + BLOCK[8:]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    with registry_process(tmp_path) as found:
        yield found


def peak(pid: int) -> int:
    """The most memory a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


@pytest.mark.slow
@only_on_linux("a process's peak of memory is read from /proc")
def test_a_gigabyte_goes_in_and_out_in_little_memory(server: tuple[int, str]) -> None:
    pid, url = server
    whole = hashlib.sha256()
    for block in blocks():
        whole.update(block)
    with httpx.Client(base_url=url, timeout=60) as http:
        small = hashlib.sha256(b"w").hexdigest()
        http.put(f"/api/v1/artifacts/{small}", content=b"w").raise_for_status()  # what the first of its kind needs
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # from here on the peak counts
        before = peak(pid)

        sent = http.put(f"/api/v1/artifacts/{whole.hexdigest()}", content=blocks())
        after_sending = peak(pid)
        file = {"path": "weights.bin", "bytes": SIZE, "sha256": whole.hexdigest()}
        http.post("/api/v1/models", json={"name": "large", "type": "tensor"}).raise_for_status()
        version = {"version": "1.0.0", "provider": "onnx", "files": [file]}
        http.post("/api/v1/models/large/versions", json=version).raise_for_status()
        received = hashlib.sha256()
        with http.stream("GET", "/api/v1/models/large/versions/1.0.0/files/weights.bin") as answer:
            for chunk in answer.iter_raw():
                received.update(chunk)

    assert (sent.status_code, received.hexdigest()) == (201, whole.hexdigest())
    told = f"{(after_sending - before) / 1e6:.0f} MB while it came, {(peak(pid) - before) / 1e6:.0f} MB in all"
    assert peak(pid) - before <= MOST, told
    print(told)  # noqa: T201 - for who asks how close it is
