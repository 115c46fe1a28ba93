"""A picture of good: small modules, small functions, a docstring that says each module's role."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, modules

MODULES = sorted(modules())
LINES, FUNCTION_LINES = 400, 50
VAGUE = {"utils", "util", "helpers", "common", "misc", "base", "manager"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 60
    assert ROOT / "service.py" in MODULES


def test_no_module_is_long() -> None:
    assert [named(p) for p in MODULES if len(p.read_text().splitlines()) > LINES] == []


def test_no_function_is_long() -> None:
    long = [
        f"{named(path)}: {node.name} has {length} lines"
        for path in MODULES
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]

    assert long == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [named(path) for path in MODULES if path.stem in VAGUE] == []


@pytest.mark.parametrize("path", [p for p in MODULES if p.stat().st_size], ids=named)
def test_every_module_says_its_role_first(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()))

    assert said
    assert said.splitlines()[0].rstrip().endswith((".", ":", "?")), said.splitlines()[0]
