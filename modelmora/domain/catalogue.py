"""The declared models and groups, and the questions asked of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, ModelType
from modelmora.errors import ModelNotFound, VersionNotFound


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An immutable set of models; of several versions of a name the last declared is current."""

    models: tuple[ModelSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()

    def get(self, ref: ModelRef) -> ModelSpec:
        """The model `ref` names; raises ModelNotFound or VersionNotFound, naming what there is."""
        versions = [m for m in self.models if m.name == ref.name]
        if not versions:
            raise ModelNotFound(f"no model {ref.name!r}{self._nearest(ref.name)}", field="model", found=ref.name)
        if ref.version is None:
            return versions[-1]
        for model in versions:
            if model.version == ref.version:
                return model
        have = ", ".join(m.version for m in versions)
        raise VersionNotFound(f"{ref.name} has no version {ref.version}; it has {have}", field="model", found=str(ref))

    def of_type(self, type_: ModelType) -> Sequence[ModelSpec]:
        """The models of a type, the default one first."""
        return sorted((m for m in self.models if m.type == type_), key=lambda m: not m.default)

    def default(self, type_: ModelType) -> ModelSpec:
        """The model a request gets that names none; raises ModelNotFound when a type has none."""
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
        near = difflib.get_close_matches(name, {m.name for m in self.models}, n=1)
        return f"; did you mean {near[0]!r}?" if near else "; GET /v1/models lists them"
