"""The JSON files beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed

Json: TypeAlias = dict[str, Any]


def read_json(spec: ModelSpec, file: Path) -> Json:
    """The object in the file; raises ModelLoadFailed naming the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise ModelLoadFailed(f"{spec.key}: {file.name} cannot be read: {cause}") from cause
    if not isinstance(content, dict):
        raise ModelLoadFailed(f"{spec.key}: {file.name} is not a JSON object")
    return content
