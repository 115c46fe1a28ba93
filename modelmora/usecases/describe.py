"""What a model takes and gives, told before it is asked to run."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec
from modelmora.ports import Describer
from modelmora.usecases.models import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A model as it describes itself, and the versions there are of its name."""

    model: ModelSpec
    versions: tuple[str, ...]
    description: Description


class Describe:
    """The use case behind the metadata of models."""

    def __init__(self, models: Models, describer: Describer) -> None:
        self._models = models
        self._describer = describer

    async def __call__(self, ref: str, *, deadline: float) -> Described:
        """The model need not be in memory. Raises ValidationFailed (no name), ModelNotFound, VersionNotFound, and what
        describing raises: ModelLoadFailed, ModelLoading, DependencyUnavailable, DeadlineExceeded."""
        model = self._models.get(ref).spec
        versions = tuple(status.spec.version for status in self._models.list() if status.spec.name == model.name)
        return Described(
            model=model, versions=versions, description=await self._describer.describe(model, deadline=deadline)
        )
