"""What is logged: an action and fields, all of them in docs/logs.md, which names nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("adapters", "api", "modelmora", "operations", "registry", "runners", "subscribers", "wiring")
LEVELS = ("debug", "info", "warning", "error", "exception")
SHUNNED = {"detail", "cause", "error", "said", "msg", "message", "seconds", "duration", "model_name", "rid", "url"}
"""Other words for `why`, `ms`, `model`, `request_id`; and addresses, which may have secrets."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a module's `log`, and of the method chosen for it in the access log."""
    for path in [ROOT / "service.py", *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level)) if level in LEVELS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node
                case ast.Call(func=ast.Name("write"), args=[ast.Constant(str())]):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


CALLS = dict(calls())


def events(call: ast.Call) -> list[str]:
    match call.args:
        case [ast.Constant(str(event))]:
            return [event]
        case [ast.IfExp(body=ast.Constant(str(one)), orelse=ast.Constant(str(other)))]:
            return [one, other]
    return []


def listed() -> set[str]:
    table = (ROOT / "docs" / "logs.md").read_text().partition("## Events")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_there_are_many() -> None:
    assert len(CALLS) > 100


@pytest.mark.parametrize("where", CALLS)
def test_a_line_is_an_action_with_fields(where: str) -> None:
    call = CALLS[where]
    assert events(call), f"{where}: the event is not a plain word"
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", event) for event in events(call)), where
    assert not {keyword.arg for keyword in call.keywords} & SHUNNED, where


def test_the_document_lists_what_is_logged_and_nothing_else() -> None:
    logged = {event for call in CALLS.values() for event in events(call)}
    assert listed() == logged | {"library_said"}
