"""The catalogue in docs/metrics.md is what there is: names, types, labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("adapters", "api", "modelmora", "registry", "runners", "subscribers", "wiring")
ALLOWED = {"model", "version", "task", "face", "code", "device"}


def declared() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name as Prometheus shows it, type, labels; labels may be a constant of the module."""
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        module = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: node.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(module):
            match node:
                case ast.Call(
                    func=ast.Name("Counter" | "Gauge" | "Histogram" as kind), args=[ast.Constant(str(name)), *rest]
                ):
                    labels = rest[1] if len(rest) > 1 else ast.List(elts=[])
                    labels = constants[labels.id] if isinstance(labels, ast.Name) else labels
                    yield (
                        name + "_total" * (kind == "Counter"),
                        kind.lower(),
                        tuple(ast.literal_eval(ast.unparse(labels))),
                    )


def listed() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("| `modelmora_"):
            _, name, kind, labels, *_ = (cell.strip() for cell in line.split("|"))
            yield name.strip("`"), kind, tuple(label for label in re.findall(r"`(\w+)`", labels) if label in ALLOWED)


def test_the_catalogue_is_what_there_is() -> None:
    there = sorted(declared())
    assert len(there) > 25
    assert sorted(listed()) == there


def test_labels_are_few_and_bounded() -> None:
    for name, _, labels in declared():
        assert set(labels) <= ALLOWED, name
        assert name.startswith("modelmora_"), name
        assert not re.search(r"_(ms|milliseconds|kb|mb)(_|$)", name), name
