"""The model store of BentoML on this machine, through BentoML's own library."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from modelmora.errors import CapabilityMissing, InvalidInput, ModelNotFound

PREFIX = "bentoml:"
OWN_FILE = "model.yaml"
"""What BentoML writes beside the model's own files."""


def found(tag: str) -> tuple[Path, dict[str, Any]]:
    """The folder of `name:version` (`name`: the latest), and where it comes from as training's parameters.

    Raises ModelNotFound, CapabilityMissing where BentoML is not installed, InvalidInput for no tag.
    """
    try:
        import bentoml  # noqa: PLC0415 - takes seconds to import
        from bentoml.exceptions import BentoMLException, NotFound  # noqa: PLC0415 - as above
    except ModuleNotFoundError as cause:
        said = "the BentoML model store is read by BentoML, which is not installed here: pip install bentoml"
        raise CapabilityMissing(said, field="path") from cause
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = bentoml.models.get(tag)
    except NotFound as cause:
        said = f"the BentoML model store has no {tag}; `bentoml models list` shows what it has"
        raise ModelNotFound(said, field="path", found=tag[:80]) from cause
    except (BentoMLException, ValueError) as cause:
        raise InvalidInput(f"{PREFIX}{tag} cannot be read: {cause}", field="path", found=tag[:80]) from cause
    told = {"tag": str(model.tag), "module": str(model.info.module or "")}
    return Path(model.path), {"parameters": {"bentoml": told}}
