"""The models and groups there are, and the questions asked of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, ModelType
from modelmora.errors import ModelNotFound, VersionNotFound

MOST_NAMED, MOST_COMPARED = 10, 1_000
"""So many versions an error names, and among so many names it looks for the one that was meant."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An immutable set of models; a name stands for its `current` version, and without one for the last of its name.

    `defaults` are of those types of which no model's own `default` decides. What a name or a default stands for need
    not be among the models: then nothing else takes its place.
    """

    models: tuple[ModelSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    current: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[ModelType, ModelRef] = field(default_factory=dict)
    _versions: Mapping[str, Mapping[str, ModelSpec]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        versions: dict[str, dict[str, ModelSpec]] = {}
        for model in self.models:
            versions.setdefault(model.name, {})[model.version] = model
        object.__setattr__(self, "_versions", versions)

    def get(self, ref: ModelRef) -> ModelSpec:
        """The model `ref` names; raises ModelNotFound or VersionNotFound, naming what there is."""
        versions = self._versions.get(ref.name)
        if not versions:
            raise ModelNotFound(f"no model {ref.name!r}{self._nearest(ref.name)}", field="model", found=ref.name)
        *_, last = versions
        wanted = ref.version or self.current.get(ref.name, last)
        if wanted in versions:
            return versions[wanted]
        have = ", ".join(list(versions)[:MOST_NAMED]) + (", ..." if len(versions) > MOST_NAMED else "")
        if ref.version is None:
            said = f"{ref.name} stands for {wanted}, which is not served; make another current, or name one of {have}"
        else:
            said = f"{ref.name} has no version {wanted}; it has {have}"
        raise VersionNotFound(said, field="model", found=str(ref))

    def find(self, name: str, version: str) -> ModelSpec | None:
        """None where there is no such version."""
        return self._versions.get(name, {}).get(version)

    def of_type(self, type_: ModelType) -> Sequence[ModelSpec]:
        """The models of a type, the default one first."""
        return sorted((m for m in self.models if m.type == type_), key=lambda m: not m.default)

    def default(self, type_: ModelType) -> ModelSpec:
        """The model a request gets that names none: the default's current version.

        Raises ModelNotFound when a type has none.
        """
        if type_ in self.defaults:
            return self.get(self.defaults[type_])
        for model in self.models:
            if model.type == type_ and model.default:
                return model
        there = ", ".join(dict.fromkeys(m.name for m in self.models if m.type == type_))
        said = f"name one of {there}" if there else "none is declared"
        raise ModelNotFound(f"no {type_} model is the default; {said}", field="model")

    def in_group(self, group: str) -> Sequence[ModelSpec]:
        """The models that runners of `group` may hold."""
        return [m for m in self.models if m.group == group]

    def group(self, name: str) -> GroupSpec:
        """The group of that name (the registry was validated: it exists)."""
        return next(g for g in self.groups if g.name == name)

    def _nearest(self, name: str) -> str:
        few = self._versions if len(self._versions) <= MOST_COMPARED else ()
        near = difflib.get_close_matches(name, few, n=1)
        return f"; did you mean {near[0]!r}?" if near else "; GET /v1/models lists them"


Look: TypeAlias = Callable[[], Catalogue]
"""The catalogue at the moment of asking."""
