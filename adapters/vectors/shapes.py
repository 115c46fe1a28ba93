"""How an index is made: its vectors, its graph, and what of the payload is indexed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.vectors.payloads import SEQ
from modelmora.domain.pictures.spaces import IndexSettings


def created_with(models: Any, dimension: int, settings: IndexSettings, *, folder: bool) -> dict[str, Any]:
    """What a collection is created with.

    Vectors are of length 1 when they come, so that their dot product is the cosine. A folder is told the former: of a
    cosine it would normalise all of them at each question, which is half of the time.
    """
    distance = models.Distance.DOT if folder else models.Distance.COSINE
    vectors = models.VectorParams(size=dimension, distance=distance, on_disk=settings.on_disk or None)
    told: dict[str, Any] = {"vectors_config": vectors}
    if settings.m is not None or settings.ef_construct is not None:
        told["hnsw_config"] = models.HnswConfigDiff(m=settings.m, ef_construct=settings.ef_construct)
    if settings.quantization == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=settings.always_ram)
        told["quantization_config"] = models.ScalarQuantization(scalar=scalar)
    if settings.on_disk:
        told["on_disk_payload"] = True
    return told


def payload_indexes(models: Any, settings: IndexSettings) -> Mapping[str, Any]:
    """The fields that a server indexes: of a key of metadata the words for what equals, the numbers for ranges."""
    kinds = models.PayloadSchemaType
    words = {f"values.{key}": kinds.KEYWORD for key in settings.payload}
    between = {f"metadata.{key}": kinds.FLOAT for key in settings.payload}
    return {"tags": kinds.KEYWORD, SEQ: kinds.INTEGER, "created_at": kinds.DATETIME, **words, **between}
