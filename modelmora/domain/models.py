"""What a model is to ModelMora: its name, its version, where it comes from and how it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import ValidationFailed

ModelType = Literal["embedding", "segmentation", "classification", "tensor"]
Task = Literal["embed_image", "embed_text", "segment", "classify", "predict"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Engine = Literal["auto", "torch", "onnxruntime", "openvino"]
State = Literal["unloaded", "loading", "loaded", "unloading", "failed"]

MODEL_TYPES: tuple[ModelType, ...] = get_args(ModelType)
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
GROUP_PATTERN = r"[a-z][a-z0-9-]{0,30}"
SEMVER_PATTERN = (
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)
_NAME = re.compile(NAME_PATTERN)
_SEMVER = re.compile(SEMVER_PATTERN)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What a request names: a model, and perhaps one of its versions."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """`name` or `name@version`; raises ValidationFailed on anything else."""
        name, at, version = text.partition("@")
        if not _NAME.fullmatch(name) or (at and not _SEMVER.fullmatch(version)):
            raise ValidationFailed(
                "model is not a name or name@version",
                field="model",
                found=text[:80],
                expected=f"{NAME_PATTERN}, optionally @ and a semantic version",
            )
        return cls(name, version or None)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How requests for one model are put together.

    `max_batch` items at most (None: chosen by the device), `max_wait_ms` counted from when the
    lane is free, `queue` items waiting at most before `overloaded` is answered.
    """

    max_batch: int | None = None
    max_wait_ms: float = 200.0
    queue: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One version of one model as declared: immutable, and enough to load it anywhere."""

    name: str
    version: str
    type: ModelType
    provider: str
    source: str
    group: str = "default"
    default: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: Precision = "fp32"
    engine: Engine = "torch"
    batching: Batching = Batching()
    warmup: bool = True
    pin: bool = False
    idle_ttl_s: float | None = None
    index: IndexSettings | None = None
    """How its vectors of kept pictures are indexed; None: they are not, unless it is the default."""

    @property
    def key(self) -> str:
        """`name@version`: the identity in caches, queues, metrics and on the runner's wire."""
        return f"{self.name}@{self.version}"

    @property
    def exported(self) -> bool:
        """Whether another library than torch runs its networks, which are exported for it; it does so on the CPU."""
        return self.engine in ("onnxruntime", "openvino") and self.type != "tensor"

    @property
    def form(self) -> str:
        """What a measured footprint stands for: the precision, and the engine where that is not the usual one."""
        return f"{self.engine}:{self.precision}" if self.exported else self.precision


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A runner group: so many worker processes with so much of the machine.

    `cpu` is in cores over the whole group, `gpus` are device indices, `memory_bytes` the budget
    for models over the whole group (None: a share of the machine's).
    """

    name: str = "default"
    workers: int = 1
    cpu: float | None = None
    gpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
