"""The port `Lineages`: what versions were made of, as far as it can be reached from one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.engine import Transactions
from adapters.database.tables import lineage as table
from modelmora.domain.registry.lineage import Lineage, Node

STRIDE = 500
"""So many nodes are looked for at a time: databases bound what a statement may hold."""


class LineageTable:
    """Edges of one tenant."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default") -> None:
        self._transactions = transactions
        self._tenant = tenant

    async def around(self, node: Node) -> Lineage:
        """See the port. A question a generation, not one a node."""
        async with self._transactions.read() as connection:
            return await self.walk(connection, node)

    async def walk(self, connection: AsyncConnection, node: Node) -> Lineage:
        """`around`, within a transaction."""
        edges = await self._walk(connection, node, towards="parents")
        edges |= await self._walk(connection, node, towards="children")
        made_of: dict[Node, list[Node]] = {}
        for child, parent in sorted(edges):
            made_of.setdefault(child, []).append(parent)
        return Lineage(made_of)

    async def _walk(
        self, connection: AsyncConnection, start: Node, *, towards: Literal["parents", "children"]
    ) -> set[tuple[Node, Node]]:
        edges: set[tuple[Node, Node]] = set()
        seen, fresh = {start}, {start}
        while fresh:
            found = await self._edges(connection, fresh, towards)
            reached = {parent if towards == "parents" else child for child, parent in found}
            edges |= found
            fresh = reached - seen
            seen |= fresh
        return edges

    async def _edges(
        self, connection: AsyncConnection, nodes: Iterable[Node], towards: Literal["parents", "children"]
    ) -> set[tuple[Node, Node]]:
        edges: set[tuple[Node, Node]] = set()
        waiting = sorted(nodes)
        for start in range(0, len(waiting), STRIDE):
            some = waiting[start : start + STRIDE]
            query = select(table.c.child, table.c.kind, table.c.parent).where(table.c.tenant == self._tenant)
            if towards == "parents":
                query = query.where(table.c.child.in_([node.name for node in some if node.kind == "version"]))
            else:
                query = query.where(tuple_(table.c.kind, table.c.parent).in_([(node.kind, node.name) for node in some]))
            edges |= {_edge(row) for row in await connection.execute(query)}
        return edges


def _edge(row: Any) -> tuple[Node, Node]:
    kind = cast(Literal["version", "dataset"], row.kind)
    return Node("version", row.child), Node(kind, row.parent)
