"""YAML read into plain values that remember their lines."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

Place: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and indices from the top, such as ("models", 0, "name")."""


_PLAIN = frozenset({yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG})


@dataclass(frozen=True, slots=True)
class Misread:
    """Something that YAML allows or not, and that is not taken."""

    line: int
    detail: str


@dataclass(slots=True)
class Document:
    """What a YAML text says, the line of each place, and what could not be read."""

    value: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    misread: list[Misread] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """The line of `place`, or of the nearest thing around it that is there."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read(text: str) -> Document:
    """The first and only document of `text`; never raises for what stands in it."""
    document = Document()
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        document.value = None if node is None else _Reader(loader, document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.misread.append(Misread(mark.line + 1 if mark else 1, f"this is not YAML: {error.problem}"))
    except yaml.YAMLError as error:
        document.misread.append(Misread(1, f"this is not YAML: {error}"))
    except RecursionError:
        document.misread.append(Misread(1, "this is nested too deeply"))
    return document


class _Reader:
    """Walks the nodes of one document."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, place: Place) -> object:
        self._document.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self._seen:
            self._refuse(node, "aliases (*name) are not taken; write the value out")
            return None
        self._seen.add(id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            self._refuse(node, f"the tag {node.tag} is not taken; write plain values")
            return None
        match node:
            case yaml.MappingNode():
                return self._mapping(node, place)
            case yaml.SequenceNode():
                return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
            case _:
                return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> Mapping[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, (*place, "<key>"))
            if not isinstance(key, Hashable):
                self._refuse(key_node, "a key must be a word")
                continue
            name = str(key)
            if name in mapping:
                first = self._document.lines[*place, name]
                self._refuse(key_node, f"the key {name!r} stands here again; it is on line {first} already")
                continue
            self._document.lines[*place, name] = key_node.start_mark.line + 1
            mapping[name] = self.value(value_node, (*place, name))
        return mapping

    def _scalar(self, node: yaml.Node) -> object:
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            self._refuse(node, f"this value cannot be read: {problem}")
            return None

    def _refuse(self, node: yaml.Node, detail: str) -> None:
        self._document.misread.append(Misread(node.start_mark.line + 1, detail))
