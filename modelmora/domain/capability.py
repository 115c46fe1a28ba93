"""What models can do, by their type and as they describe themselves; and what is said to who asks for anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, ModelType, Task
from modelmora.errors import CapabilityMissing

TYPE_OF: Mapping[Task, ModelType] = MappingProxyType(
    {
        "embed_image": "embedding",
        "embed_text": "embedding",
        "segment": "segmentation",
        "classify": "classification",
        "predict": "tensor",
    }
)
"""The type of model that a task is for, and whose default serves it untold."""

_SAID: Mapping[Task, str] = MappingProxyType(
    {
        "embed_image": "embed pictures",
        "embed_text": "embed texts",
        "segment": "segment",
        "classify": "classify",
        "predict": "predict tensors",
    }
)


def types_of(tasks: Sequence[Task] | frozenset[Task]) -> frozenset[ModelType]:
    """The types of model that a family with these tasks serves."""
    return frozenset(TYPE_OF[task] for task in tasks)


def able(model: ModelSpec, description: Description | None = None) -> tuple[Task, ...]:
    """What the model can do: by its type, and where it is described, by what it takes.

    One that embeds pictures and texts also classifies, by labels that the caller gives.
    """
    tasks = [task for task, type_ in TYPE_OF.items() if type_ == model.type]
    if description is not None and model.type == "embedding":
        takes = {"embed_image": description.image, "embed_text": description.text}
        tasks = [task for task in tasks if takes[task] is not None]
        if description.scoring is not None and None not in takes.values():
            tasks.append("classify")
    return tuple(tasks)


def cannot(model: ModelSpec, task: Task, description: Description | None = None) -> CapabilityMissing:
    """The error that names what the model can do."""
    can = " and ".join(_SAID[each] for each in able(model, description)) or "nothing that is asked for here"
    return CapabilityMissing(
        f"{model.key} cannot {_SAID[task]}; it can {can}", field="model", found=_SAID[task], expected=can
    )
