"""Models and versions as somebody registers them, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from modelmora.domain.models import ModelType
from modelmora.domain.registry.artifact import Artifact, ArtifactFile
from modelmora.domain.registry.audit import Change
from modelmora.domain.registry.entries import Model, ModelVersion, Running

NOW = datetime(2026, 5, 4, 3, 2, 1, 250_000, tzinfo=UTC)
WEIGHTS = ArtifactFile(path="model/weights.safetensors", bytes=7, sha256="ab" * 32)
CONFIG = ArtifactFile(path="config.json", bytes=2, sha256="cd" * 32)
ARTIFACT = Artifact.of("object:somewhere", [WEIGHTS, CONFIG])


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_model(name: str = "birds", *, second: float = 0, type_: ModelType = "classification", **changes: Any) -> Model:
    """Registered at a second."""
    at = later(second)
    return Model(id=f"id-{name}", name=name, type=type_, created_at=at, changed_at=at, **changes)


def a_version(version: str = "1.0.0", *, model: str = "birds", second: float = 0, **changes: Any) -> ModelVersion:
    """Registered at a second, as a classifier."""
    at = later(second)
    told: dict[str, Any] = {
        "id": f"id-{model}-{version}",
        "type": "classification",
        "source": f"object:{ARTIFACT.sha256}",
        "artifact": ARTIFACT,
        "running": Running(provider="classifier"),
        "created_at": at,
        "changed_at": at,
    }
    return ModelVersion(**{**told, "model": model, "version": version, **changes})


def a_change(action: str = "register", subject: str = "birds", **changes: Any) -> Change:
    return Change(actor="ann", action=action, subject=subject, request_id="r-1", **changes)


def artifact_of(version: ModelVersion) -> Artifact:
    """Of one whose files are in the object store."""
    assert version.artifact is not None
    return version.artifact
