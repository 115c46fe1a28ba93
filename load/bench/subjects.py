"""The models that can be measured: where their weights lie and how our service is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from load.bench.processes import ROOT
from modelmora.domain.models import Engine

Name = Literal["vit-b-32", "shapes-clip", "dinov2-base", "vit-base", "noop"]
Task = Literal["embed", "classify"]
Precision = Literal["fp32", "bf16", "int8", "auto"]
NAMES: tuple[Name, ...] = get_args(Name)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ENGINES: tuple[Engine, ...] = get_args(Engine)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model; `folder` is None where only our service can run it, and then texts are sent.

    `precision` and `engine` are what our service runs it in and by; the others always take fp32 and torch. The plain
    services and LitServe know `open_clip` alone.
    """

    name: Name
    provider: str
    source: str
    folder: Path | None
    task: Task = "embed"
    precision: Precision = "fp32"
    engine: Engine = "torch"
    config: Mapping[str, Any] = field(default_factory=dict)

    def registry(self, threads: int) -> str:
        """A ModelRegistry.yaml with this model alone; `threads` 0 leaves the runner what it takes by itself."""
        row = {
            "name": self.name,
            "version": "1.0.0",
            "type": "classification" if self.task == "classify" else "embedding",
            "provider": self.provider,
            "source": self.source,
            "default": True,
            "device": "cpu",
            "precision": self.precision,
            "engine": self.engine,
            "config": dict(self.config),
        }
        group: dict[str, Any] = {"workers": 1, **({"resources": {"cpu": threads}} if threads else {})}
        return yaml.safe_dump({"version": 1, "groups": {"default": group}, "models": [row]}, sort_keys=False)


_TRANSFORMERS: Mapping[str, tuple[str, Task]] = {
    "dinov2-base": ("dinov2", "embed"),
    "vit-base": ("classifier", "classify"),
}


def prepare(name: Name, work: Path) -> Subject:
    """The subject, its weights made first where there are none: random ones cost the same as trained ones."""
    match name:
        case "noop":
            return Subject(name, "noop", "bundled:noop", None)
        case "shapes-clip":
            folder = ROOT / "registry" / "bundled" / "shapes-clip"
            return Subject(name, "open_clip", "bundled:shapes-clip", _existing(folder))
        case "vit-b-32":
            folder = work / "ViT-B-32-random"
            if not (folder / "open_clip_config.json").exists():
                from load.random_weights import write_random  # noqa: PLC0415 (imports torch; seldom needed)

                write_random("ViT-B-32", folder, seed=0)
            return Subject(name, "open_clip", f"file:{_existing(folder)}", folder)
        case "dinov2-base" | "vit-base":
            folder = work / f"{name}-random"
            if not (folder / "preprocessor_config.json").exists():  # written last
                from load.random_weights import write_random_transformer  # noqa: PLC0415 (as above)

                write_random_transformer(name, folder, seed=0)
            provider, task = _TRANSFORMERS[name]
            return Subject(name, provider, f"file:{folder}", folder, task)


def classifies(name: str) -> bool:
    """Whether the model is asked for classes."""
    return name in _TRANSFORMERS and _TRANSFORMERS[name][1] == "classify"


def _existing(folder: Path) -> Path:
    if not (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no open_clip_config.json; the model is not in this checkout")
    return folder
