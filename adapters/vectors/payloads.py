"""Points as Qdrant keeps them, and hits made of what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from modelmora.domain.pictures.picture import Facts, Value
from modelmora.domain.pictures.search import Hit, Point, Provenance
from modelmora.errors import ValidationFailed

SEQ = "provenance.seq"


def payload_of(point: Point) -> dict[str, Any]:
    """All that a result shows, and what the vector was made of."""
    made, facts = point.provenance, point.facts
    return {
        "id": made.picture_id,
        "filename": facts.filename,
        "tags": list(facts.tags),
        "metadata": dict(facts.metadata),
        "content_type": point.content_type,
        "created_at": point.created_at.isoformat(),
        "provenance": {
            "sha256": made.sha256,
            "model": made.model,
            "version": made.version,
            "precision": made.precision,
            "seq": made.seq,
            "embedded_at": made.embedded_at.isoformat(),
        },
    }


def hit_of(payload: Mapping[str, Any], score: float, group: Value | None = None) -> Hit:
    """A hit of a point's payload."""
    made = payload["provenance"]
    return Hit(
        id=payload["id"],
        score=score,
        facts=Facts(filename=payload["filename"], tags=tuple(payload["tags"]), metadata=payload["metadata"]),
        provenance=Provenance(
            picture_id=payload["id"],
            sha256=made["sha256"],
            model=made["model"],
            version=made["version"],
            precision=made["precision"],
            seq=made["seq"],
            embedded_at=datetime.fromisoformat(made["embedded_at"]),
        ),
        content_type=payload["content_type"],
        created_at=datetime.fromisoformat(payload["created_at"]),
        group=group,
    )


def numbers(vector: Sequence[float] | bytes, *, dimension: int, name: str) -> list[float]:
    """The vector as numbers; raises ValidationFailed for one of another length, or that is not finite."""
    array = np.frombuffer(vector, "<f4") if isinstance(vector, bytes) else np.asarray(vector, np.float32)
    if array.shape != (dimension,):
        said = f"a vector for {name} has {dimension} numbers"
        raise ValidationFailed(said, field="vector", found=f"{array.size} numbers", expected=f"{dimension} numbers")
    if not np.isfinite(array).all():
        raise ValidationFailed("a vector holds finite numbers", field="vector", found="NaN or infinity")
    told: list[float] = array.tolist()
    return told
