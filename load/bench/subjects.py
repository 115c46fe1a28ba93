"""The models that can be measured: where their weights lie and how our service is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from load.bench.processes import ROOT

Name = Literal["vit-b-32", "shapes-clip", "noop"]
Precision = Literal["fp32", "bf16", "auto"]
NAMES: tuple[Name, ...] = get_args(Name)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model; `folder` is None where only our service can run it, and then texts are sent.

    `precision` is what our service runs it in; the others always take fp32.
    """

    name: Name
    provider: str
    source: str
    folder: Path | None
    precision: Precision = "fp32"
    config: Mapping[str, Any] = field(default_factory=dict)

    def registry(self, threads: int) -> str:
        """A ModelRegistry.yaml with this model alone; `threads` 0 leaves the runner what it takes by itself."""
        row = {
            "name": self.name,
            "version": "1.0.0",
            "type": "embedding",
            "provider": self.provider,
            "source": self.source,
            "default": True,
            "device": "cpu",
            "precision": self.precision,
            "engine": "torch",
            "config": dict(self.config),
        }
        group: dict[str, Any] = {"workers": 1, **({"resources": {"cpu": threads}} if threads else {})}
        return yaml.safe_dump({"version": 1, "groups": {"default": group}, "models": [row]}, sort_keys=False)


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


def _existing(folder: Path) -> Path:
    if not (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no open_clip_config.json; the model is not in this checkout")
    return folder
