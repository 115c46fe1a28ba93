"""Where the registry's entries are on a server; a name that is none is refused before anything is sent."""

from __future__ import annotations

from urllib.parse import quote

from modelmora.domain.models import ModelRef
from modelmora.errors import ValidationFailed


def model_path(name: str) -> str:
    """Raises ValidationFailed for what is no model's name or id."""
    if ModelRef.parse(name).version is not None:
        raise ValidationFailed("this names a version, not a model", field="model", found=name[:80], expected="a name")
    return f"/api/v1/models/{name}"


def version_path(name: str, version: str) -> str:
    """Raises ValidationFailed."""
    return f"{model_path(name)}/versions/{version_part(name, version)}"


def version_part(name: str, version: str) -> str:
    """A version in a path, in which a `+` would be a space to some; raises ValidationFailed."""
    ref = ModelRef.parse(f"{name}@{version}")
    return quote(ref.version or "", safe="")
