"""Points as Qdrant keeps them, and hits made of what it finds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from modelmora.domain.pictures.picture import Facts, Value
from modelmora.domain.pictures.search import Hit, Point, Provenance
from modelmora.errors import ValidationFailed

SEQ = "provenance.seq"


def payload_of(point: Point) -> dict[str, Any]:
    """All that a result shows, and what the vector was made of. `values` are the metadata in words, to be compared."""
    made, facts = point.provenance, point.facts
    return {
        "id": made.picture_id,
        "filename": facts.filename,
        "tags": list(facts.tags),
        "metadata": dict(facts.metadata),
        "values": {key: word_of(value) for key, value in facts.metadata.items()},
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


def word_of(value: Value) -> str:
    """The value in JSON: 1, 1.0 and true are three values, and groups and keyword indexes take words alone."""
    return json.dumps(value + 0.0 if isinstance(value, float) else value, ensure_ascii=False)  # -0.0 is 0.0


def value_of(word: str) -> Value:
    """What `word_of` made the word of."""
    value: Value = json.loads(word)
    return value


def hit_of(payload: Mapping[str, Any], score: float, *, group: Value | None = None) -> Hit:
    """A hit of a point's payload."""
    return Hit(
        id=payload["id"],
        score=max(-1.0, min(1.0, score)),  # rounding
        facts=_facts(payload),
        provenance=_provenance(payload),
        content_type=payload["content_type"],
        created_at=datetime.fromisoformat(payload["created_at"]),
        group=group,
    )


def point_of(payload: Mapping[str, Any], vector: bytes) -> Point:
    """The point that `payload_of` made the payload of."""
    return Point(
        vector=vector,
        facts=_facts(payload),
        provenance=_provenance(payload),
        content_type=payload["content_type"],
        created_at=datetime.fromisoformat(payload["created_at"]),
    )


def _facts(payload: Mapping[str, Any]) -> Facts:
    return Facts(filename=payload["filename"], tags=tuple(payload["tags"]), metadata=payload["metadata"])


def _provenance(payload: Mapping[str, Any]) -> Provenance:
    made = payload["provenance"]
    return Provenance(
        picture_id=payload["id"],
        sha256=made["sha256"],
        model=made["model"],
        version=made["version"],
        precision=made["precision"],
        seq=made["seq"],
        embedded_at=datetime.fromisoformat(made["embedded_at"]),
    )


def length_of(vector: Sequence[float] | bytes) -> float:
    """How many numbers it has; a broken one where bytes are missing."""
    return len(vector) / 4 if isinstance(vector, bytes) else len(vector)


def numbers(vector: Sequence[float] | bytes, *, dimension: int, name: str) -> list[float]:
    """The vector as numbers of length 1; raises ValidationFailed for one of another length, or that is not finite."""
    length = length_of(vector)
    if length != dimension:
        said = f"a vector for {name} has {dimension} numbers"
        raise ValidationFailed(said, field="vector", found=f"{length:g} numbers", expected=f"{dimension} numbers")
    row = np.frombuffer(vector, "<f4") if isinstance(vector, bytes) else np.asarray(vector, np.float64)
    if not np.isfinite(row).all():
        raise ValidationFailed("a vector holds finite numbers", field="vector", found="NaN or infinity")
    wide = row.astype(np.float64)
    told: list[float] = (wide / (np.linalg.norm(wide) or 1.0)).astype(np.float32).tolist()
    return told
