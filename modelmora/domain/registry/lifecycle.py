"""The states of a version and the moves between them: a table, and nothing else decides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from modelmora.errors import WrongState

VersionState = Literal[
    "registered",
    "validation_failed",
    "validated",
    "pending_approval",
    "approved",
    "rejected",
    "deployed",
    "archived",
    "purged",
    "quarantined",
]
Move = Literal[
    "validate",
    "fail_validation",
    "retry",
    "submit",
    "approve",
    "reject",
    "resubmit",
    "revalidate",
    "deploy",
    "undeploy",
    "archive",
    "restore",
    "reopen",
    "purge",
    "quarantine",
    "release",
]
STATES: tuple[VersionState, ...] = get_args(VersionState)

Targets: TypeAlias = Mapping[VersionState, VersionState]

_KEPT: tuple[VersionState, ...] = tuple(state for state in STATES if state not in ("purged", "quarantined"))
_AT_REST: tuple[VersionState, ...] = tuple(state for state in _KEPT if state not in ("deployed", "archived"))

MOVES: Mapping[Move, Targets] = MappingProxyType(
    {
        "validate": {"registered": "validated"},
        "fail_validation": {"registered": "validation_failed"},
        "retry": {"validation_failed": "registered"},
        "submit": {"validated": "pending_approval"},
        "approve": {"pending_approval": "approved", "validated": "approved"},
        "reject": {"pending_approval": "rejected"},
        "resubmit": {"rejected": "validated"},
        "revalidate": {"approved": "validated", "pending_approval": "validated", "validated": "registered"},
        "deploy": {"approved": "deployed"},
        "undeploy": {"deployed": "approved"},
        "archive": dict.fromkeys(_AT_REST, "archived"),
        "restore": {"archived": "validated"},
        "reopen": {"archived": "registered"},
        "purge": {"archived": "purged"},
        "quarantine": dict.fromkeys(_KEPT, "quarantined"),
        "release": {"quarantined": "registered"},
    }
)
"""Of each move, the states it starts from and where it leads.

`approve` of a version that was not submitted is the policy's, where none asks for votes. `restore` is for what
was validated before it was archived (`ModelVersion.moved` sees to that), `reopen` for what was not. What is released
from quarantine is validated anew, and approved anew: what was wrong with it may have been there before.
"""

SERVABLE: frozenset[VersionState] = frozenset({"approved", "deployed"})
"""A version in another state is neither loaded nor routed to."""


def after(state: VersionState, move: Move) -> VersionState:
    """Where the move leads; raises WrongState naming the moves that are allowed."""
    target = MOVES[move].get(state)
    if target is not None:
        return target
    can = ", ".join(allowed(state)) or "nothing: it is gone"
    raise WrongState(
        f"cannot {move.replace('_', ' ')} a version that is {state}; allowed: {can}",
        field="state",
        found=state,
        expected=can,
    )


def allowed(state: VersionState) -> tuple[Move, ...]:
    """The moves that start from a state, in the order of the table."""
    return tuple(move for move, targets in MOVES.items() if state in targets)


def diagram() -> str:
    """The table as a Mermaid state diagram; those that nearly every state has are notes."""
    usual: tuple[Move, ...] = ("archive", "quarantine")
    lines = ["stateDiagram-v2", "    [*] --> registered"]
    for move, targets in MOVES.items():
        if move not in usual:
            lines += [f"    {source} --> {target}: {move}" for source, target in targets.items()]
    for move in usual:
        sources = ", ".join(MOVES[move])
        [target] = set(MOVES[move].values())
        lines.append(f"    note right of {target}: {move} from {sources}")
    return "\n".join((*lines, "    purged --> [*]"))
