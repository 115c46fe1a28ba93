"""What may become of a version: every cell of the table, and that nothing leads around it."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from modelmora.domain.registry.lifecycle import MOVES, STATES, Move, VersionState, after, allowed, diagram
from modelmora.errors import WrongState
from tests.registered import a_version

ALL_MOVES: tuple[Move, ...] = get_args(Move)


@pytest.mark.parametrize("move", ALL_MOVES)
@pytest.mark.parametrize("state", STATES)
def test_a_move_is_in_the_table_or_is_refused_with_what_is_allowed(state: VersionState, move: Move) -> None:
    if state in MOVES[move]:
        assert after(state, move) == MOVES[move][state]
        assert move in allowed(state)
        return
    with pytest.raises(WrongState) as refused:
        after(state, move)
    assert refused.value.found == state
    assert all(one in str(refused.value.expected) for one in allowed(state))


@pytest.mark.parametrize(
    ("state", "moves"),
    [
        ("registered", {"validate", "fail_validation", "archive", "quarantine"}),
        ("validation_failed", {"retry", "archive", "quarantine"}),
        ("validated", {"submit", "approve", "revalidate", "archive", "quarantine"}),
        ("pending_approval", {"approve", "reject", "revalidate", "archive", "quarantine"}),
        ("approved", {"deploy", "revalidate", "archive", "quarantine"}),
        ("rejected", {"resubmit", "archive", "quarantine"}),
        ("deployed", {"undeploy", "quarantine"}),
        ("archived", {"restore", "reopen", "purge", "quarantine"}),
        ("quarantined", {"release"}),
        ("purged", set()),
    ],
)
def test_each_state_has_its_ways_out(state: VersionState, moves: set[Move]) -> None:
    assert set(allowed(state)) == moves


def test_no_way_leads_around_validation_and_approval() -> None:
    """Every way through the table, as far as what was checked on it differs."""
    now, first = datetime(2026, 1, 1, tzinfo=UTC), a_version()
    seen, waiting = {(first.state, False, False)}, deque([(first, False, False)])
    while waiting:
        version, validated, approved = waiting.popleft()
        assert not version.servable or (validated and approved)
        assert (version.validated_at is not None) == validated
        for move in allowed(version.state):
            try:
                then = version.moved(move, at=now)
            except WrongState:
                assert (move, validated) == ("restore", False)
                continue
            checked = (validated or move == "validate") and then.state != "registered"
            agreed = move == "approve" or (approved and then.state in ("approved", "deployed"))
            if (then.state, checked, agreed) not in seen:
                seen.add((then.state, checked, agreed))
                waiting.append((then, checked, agreed))
    assert {state for state, _, _ in seen} == set(STATES)


def test_every_state_can_be_reached_and_only_purging_ends_it() -> None:
    reached: set[VersionState] = {"registered"}
    while new := {after(state, move) for state in reached for move in allowed(state)} - reached:
        reached |= new
    assert reached == set(STATES)
    assert [state for state in STATES if not allowed(state)] == ["purged"]


def test_the_drawing_has_every_move() -> None:
    drawn = diagram()
    for move, targets in MOVES.items():
        for source, target in targets.items():
            assert f"{source} --> {target}: {move}" in drawn or f"{move} from" in drawn
    assert drawn.startswith("stateDiagram-v2")


def test_the_architecture_page_has_the_drawing() -> None:
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert diagram() in page
