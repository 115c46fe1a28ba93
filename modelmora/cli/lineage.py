"""`modelmora lineage`: what a version was made of and what was made of it, as a tree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import click

from modelmora.cli.screen import print_json
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import LineageInfo, WrongState
from modelmora.domain.registry.lineage import Node


@click.command()
@click.argument("name")
@json_option
@talks_to_server
def lineage(server: Server, name: str, as_json: bool) -> None:
    """Draw where NAME@VERSION comes from and what came of it; of NAME alone, of its current version."""
    found = asyncio.run(_lineage(server, name))
    if as_json:
        edges = [{"child": child, "parent": parent} for child, parent in found.edges]
        lists = {name: getattr(found, name) for name in ("node", "ancestors", "descendants", "datasets")}
        print_json({**lists, "edges": edges})
    else:
        for line in drawn(found):
            click.echo(line)


async def _lineage(server: Server, name: str) -> LineageInfo:
    async with server.client() as client:
        model, _, version = name.partition("@")
        if not version:
            version = (await client.model(model)).version
        if not version:
            raise WrongState(f"{model} stands for no version yet; name one", field="model", expected="NAME@VERSION")
        return await client.lineage(model, version)


def drawn(found: LineageInfo) -> Iterator[str]:
    """The node, its ancestors as one branch and its descendants as the other. What hangs in two places is drawn whole
    in the first."""
    parents, children = dict[Node, list[Node]](), dict[Node, list[Node]]()
    for child, parent in found.edges:
        parents.setdefault(child, []).append(parent)
        children.setdefault(parent, []).append(child)
    branches = [("made of", parents), ("made into", children)]
    there = [(head, nexts) for head, nexts in branches if nexts.get(found.node)]
    yield _name(found.node) if there else f"{_name(found.node)}: made of nothing that is known, and nothing of it"
    for index, (head, nexts) in enumerate(there):
        last = index == len(there) - 1
        yield f"{'└── ' if last else '├── '}{head}"
        yield from _below(found.node, nexts, "    " if last else "│   ", {found.node})


def _below(node: Node, nexts: Mapping[Node, Sequence[Node]], indent: str, seen: set[Node]) -> Iterator[str]:
    """Depth first without recursion: a line of ancestors may be long."""
    stack = [(indent, iter(_marked(nexts.get(node, ()))))]
    while stack:
        indent, rest = stack[-1]
        one, last = next(rest, (None, False))
        if one is None:
            stack.pop()
            continue
        again = one in seen and bool(nexts.get(one))
        yield f"{indent}{'└── ' if last else '├── '}{_name(one)}{' (see above)' if again else ''}"
        if one not in seen:
            seen.add(one)
            stack.append((indent + ("    " if last else "│   "), iter(_marked(nexts.get(one, ())))))


def _marked(nodes: Sequence[Node]) -> list[tuple[Node | None, bool]]:
    """In order, each with whether it is the last."""
    ordered = sorted(nodes)
    return [(one, place == len(ordered) - 1) for place, one in enumerate(ordered)]


def _name(node: Node) -> str:
    if node.kind == "version":
        return node.name
    name, _, digest = node.name.rpartition("@")
    known = name and len(digest) == 64
    return f"data set {name} ({digest[:12]})" if known else f"data set {node.name}"
