"""The locked requirements: whole, hashed, from nowhere in particular."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, files

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# Put together here, so that this file does not name them either.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"), ("npmjs", "org"))]
_PIN = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,_-]+\])?==\S+", re.I)


def statements(lock: Path) -> list[str]:
    """The requirements with their continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", lock.read_text(), flags=re.M).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def pins(lock: Path) -> dict[str, set[str]]:
    """Name -> pinned versions (more than one where platforms differ)."""
    found: dict[str, set[str]] = {}
    for statement in statements(lock):
        name, _, version = statement.split()[0].partition("==")
        found.setdefault(name, set()).add(version)
    return found


def test_there_is_a_lock_for_each_purpose() -> None:
    ours = {"bootstrap", "serve", "dev", "components", "load", "image-onnx", "image-torch"}
    assert {lock.stem for lock in LOCKS} == ours | {"rival-infinity", "rival-mlserver"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    assert len(statements(lock)) > 1
    for statement in statements(lock):
        assert _PIN.match(statement), statement[:100]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", statement), statement[:100]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_no_requirement_says_where_to_get_it(lock: Path) -> None:
    text = lock.read_text()

    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links|-e|git\+)", text, re.M)


def test_what_serves_is_what_was_tested() -> None:
    serve, dev, components = (pins(ROOT / "requirements" / f"{n}.txt") for n in ("serve", "dev", "components"))

    assert serve.items() <= dev.items() <= components.items()
    for image in ("image-onnx", "image-torch"):
        own = {name: of for name, of in pins(ROOT / "requirements" / f"{image}.txt").items() if name != "dumb-init"}
        assert own.items() <= components.items(), image


def test_no_file_names_a_package_registry() -> None:
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in files()
        if path.stat().st_size < 2**22
        for host in HOSTS
        if host.encode() in path.read_bytes()
    ]

    assert named == []
