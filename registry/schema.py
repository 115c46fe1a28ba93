"""The shape of ModelRegistry.yaml, from which its JSON Schema is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from modelmora.domain.models import GROUP_PATTERN, NAME_PATTERN, SEMVER_PATTERN, Engine, ModelType, Precision
from modelmora.domain.pictures.picture import KEY_PATTERN
from modelmora.domain.pictures.spaces import CANDIDATES, LINKS

SOURCE_PATTERN = (
    rf"(bundled:{NAME_PATTERN}|hub:[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._-]+)?"
    r"|file:[^\n]+|object:[0-9a-f]{64})"
)
MEMORY_PATTERN = r"[0-9]+(\.[0-9]+)? ?([KMGT]i?B|B)"
DURATION_PATTERN = r"[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d)"
PROVIDER_PATTERN = r"[a-z][a-z0-9_]{0,30}"
DEVICE_PATTERN = r"(auto|cpu|mps|cuda(:[0-9]+)?)"

_UNITS = {
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)},
}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"([0-9.]+) ?([A-Za-z]+)")


def takes(text: str, **options: Any) -> Any:
    """What a field takes, in words: for the schema's readers and for error messages."""
    return Field(description=text, **options)


def _text(pattern: str) -> StringConstraints:
    return StringConstraints(pattern=f"^{pattern}$")


Name = Annotated[str, _text(NAME_PATTERN)]
GroupName = Annotated[str, _text(GROUP_PATTERN)]
Positive = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Quantity = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Memory = Positive | Annotated[str, _text(MEMORY_PATTERN)]
Duration = Quantity | Annotated[str, _text(DURATION_PATTERN)]


class Declared(BaseModel):
    """A mapping of the file: values as YAML reads them, no conversion, no other keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DeclaredResources(Declared):
    """What a group may take of the machine; what is left out is shared."""

    cpu: Quantity | None = takes("cores over the whole group, a number above 0", default=None)
    gpu: Index | list[Index] = takes("how many GPUs, or a list of their indices such as [0, 2]", default=0)
    memory: Memory | None = takes(
        "the budget for models over the whole group: bytes, or a size such as 4GiB or 500MB", default=None
    )


class DeclaredGroup(Declared):
    """A runner group: processes that hold models."""

    workers: Positive = takes("worker processes, a whole number from 1", default=1)
    resources: DeclaredResources = takes("a mapping of cpu, gpu, memory", default=DeclaredResources())


class DeclaredBatching(Declared):
    """How requests for one model are put together."""

    max_batch: Positive | None = takes("items in a batch at most, a whole number from 1", default=None)
    max_wait_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = takes(
        "milliseconds from when the device is free, a number from 0", default=200.0
    )
    queue: Positive = takes("items that wait at most, a whole number from 1", default=1024)


class DeclaredIndex(Declared):
    """How the vectors of kept pictures are indexed; a Qdrant server heeds all of it, a folder the comparison alone."""

    m: Annotated[int, Field(ge=LINKS[0], le=LINKS[1])] | None = takes(
        "HNSW's links of a vector, 4 to 256", default=None
    )
    ef_construct: Annotated[int, Field(ge=CANDIDATES[0], le=CANDIDATES[1])] | None = takes(
        "HNSW's candidates, 4 to 4096", default=None
    )
    quantization: Literal["int8"] | None = takes("int8", default=None)
    always_ram: bool = takes("true or false; true to keep quantized vectors in memory", default=True)
    on_disk: bool = takes("true or false; true to keep full vectors on the disk", default=False)
    payload: list[Annotated[str, _text(KEY_PATTERN)]] = takes("keys of metadata that filters are quick on", default=[])


SWITCH, SETTINGS = "<switch>", "<settings>"
"""What tells the two forms of an index apart; faults are told of the one that was meant, and without these."""

OneIndex = Annotated[
    Annotated[bool, Tag(SWITCH)] | Annotated[DeclaredIndex, Tag(SETTINGS)],
    Discriminator(lambda value: SETTINGS if isinstance(value, dict | DeclaredIndex) else SWITCH),
]


class DeclaredModel(Declared):
    """One version of one model."""

    name: Name = takes("a name of a-z 0-9 . _ - that starts with a letter or digit, up to 64 characters")
    version: Annotated[str, _text(SEMVER_PATTERN)] = takes("a semantic version such as 1.0.0")
    type: ModelType = takes("embedding, segmentation, classification or tensor")
    provider: Annotated[str, _text(PROVIDER_PATTERN)] = takes(
        "a model family: the name of a file in runners/, such as open_clip",
        examples=["open_clip", "dinov2", "sam", "classifier", "onnx", "tensorflow"],
    )
    source: Annotated[str, _text(SOURCE_PATTERN)] = takes(
        "bundled:NAME, hub:ORGANISATION/NAME (optionally @REVISION), file:PATH or object:SHA256"
    )
    group: GroupName = takes("a runner group", default="default")
    default: bool = takes("true or false; true for the model that requests of its type get untold", default=False)
    config: dict[str, Any] = takes("a mapping that the provider understands", default={})
    device: Annotated[str, _text(DEVICE_PATTERN)] = takes("auto, cpu, mps, cuda or cuda:INDEX", default="auto")
    precision: Precision = takes("auto, fp32, bf16, fp16 or int8", default="fp32")
    engine: Engine = takes("auto, torch, onnxruntime or openvino", default="torch")
    batching: DeclaredBatching = takes("a mapping of max_batch, max_wait_ms, queue", default=DeclaredBatching())
    warmup: bool = takes("true or false; true to load and run once before the server is ready", default=True)
    pin: bool = takes("true or false; true to never evict it", default=False)
    idle_ttl: Duration | None = takes("seconds without use until it is unloaded, or a time such as 10m", default=None)
    index: OneIndex = takes(
        "true, false or a mapping of m, ef_construct, quantization, always_ram, on_disk, payload", default=False
    )


class DeclaredRegistry(Declared):
    """ModelRegistry.yaml: the models that a deployment serves and the runner groups that hold them."""

    version: Literal[1] = takes("1, the version of this format")
    groups: dict[GroupName, DeclaredGroup] = takes("a mapping of group names to groups", default={})
    models: list[DeclaredModel] = takes("a list of models")


def json_schema() -> dict[str, Any]:
    """The JSON Schema that editors and `registry/ModelRegistry.schema.json` use."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **DeclaredRegistry.model_json_schema()}


def in_bytes(memory: int | str) -> int:
    """A size as declared, in bytes."""
    return memory if isinstance(memory, int) else int(_quantity(memory, _UNITS))


def in_seconds(duration: float | str) -> float:
    """A time as declared, in seconds."""
    return float(duration) if isinstance(duration, int | float) else _quantity(duration, _SECONDS)


def _quantity(text: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no number with a unit")
    return float(match[1]) * units[match[2]]


if __name__ == "__main__":
    export = Path(__file__).with_name("ModelRegistry.schema.json")
    export.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
