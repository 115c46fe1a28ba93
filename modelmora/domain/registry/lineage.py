"""Where versions come from: parents and data sets, as a graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelmora.errors import ValidationFailed


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """`version`: `name@version`; `dataset`: its name, with its digest behind an `@` where that is known."""

    kind: Literal["version", "dataset"]
    name: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which nodes a node was made of; a node may be named before it is registered."""

    made_of: Mapping[Node, Sequence[Node]] = field(default_factory=dict)

    def ancestors(self, node: Node) -> list[Node]:
        """All that it was made of, the nearest first."""
        return _reached(node, lambda one: self.made_of.get(one, ()))

    def descendants(self, node: Node) -> list[Node]:
        """All that was made of it, the nearest first."""
        made: dict[Node, list[Node]] = {}
        for child, parents in self.made_of.items():
            for parent in parents:
                made.setdefault(parent, []).append(child)
        return _reached(node, lambda one: made.get(one, ()))

    def refuse_circle(self, node: Node, parents: Iterable[Node]) -> None:
        """Raises ValidationFailed where the node would be among its own ancestors."""
        for parent in parents:
            if parent == node or node in self.ancestors(parent):
                raise ValidationFailed(
                    f"{node.name} cannot be made of {parent.name}, which is made of it",
                    field="training.parent",
                    found=parent.name,
                )


def _reached(start: Node, nexts: Callable[[Node], Sequence[Node]]) -> list[Node]:
    seen, waiting = {start: None}, deque([start])
    while waiting:
        for one in sorted(nexts(waiting.popleft())):
            if one not in seen:
                seen[one] = None
                waiting.append(one)
    return [one for one in seen if one != start]
