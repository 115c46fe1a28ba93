"""Which family a folder of files belongs to, told from the files themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modelmora.domain.models import ModelType
from modelmora.errors import ValidationFailed
from registry.pickles import suspicious

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
MOST_CONFIG_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sniffed:
    """What a folder holds: who runs it, as what; `root` is where in it, `why` the file that told."""

    provider: str
    type: ModelType
    why: str
    root: str = ""
    config: dict[str, Any] = field(default_factory=dict)


def sniff(folder: Path) -> Sniffed:
    """Raises ValidationFailed naming what can be told, for a folder that is none of it."""
    found = _mlflow(folder)
    return _of_files(folder) if found is None else found


def _of_files(folder: Path) -> Sniffed:
    found = next(filter(None, (tell(folder) for tell in _TELLERS)), None)
    if found is not None:
        return found
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise ValidationFailed(
        "no model that is known",
        field="files",
        found=there,
        expected="open_clip_config.json, config.json (DINOv2, SAM, classifiers), one .onnx, saved_model.pb or MLmodel",
    )


def refuse_executable(folder: Path) -> None:
    """Raises ValidationFailed with every pickle that would import more than weights are made of, and what."""
    found: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICKLED and path.is_file()):
        try:
            names = suspicious(path)
        except (ValueError, EOFError, RecursionError) as cause:
            names = [f"nothing that can be read ({cause})"]
        if names:
            found.append(f"{path.relative_to(folder)} would import {', '.join(names[:5])}")
    if found:
        said = "files that would execute code when they are read are not taken; store weights as safetensors"
        raise ValidationFailed(said, field="files", found="; ".join(found)[:2_000], expected="weights alone")


def _open_clip(folder: Path) -> Sniffed | None:
    name = "open_clip_config.json"
    return Sniffed(provider="open_clip", type="embedding", why=name) if (folder / name).is_file() else None


def _transformers(folder: Path) -> Sniffed | None:
    config = _json(folder / "config.json")
    if config is None:
        return None
    family, classes = str(config.get("model_type", "")), config.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    if first.endswith("ForImageClassification"):
        return Sniffed(provider="classifier", type="classification", why=f"config.json: {first}")
    told = f"config.json: {family}"
    if family in ("dinov2", "dinov2_with_registers"):
        return Sniffed(provider="dinov2", type="embedding", why=told)
    return Sniffed(provider="sam", type="segmentation", why=told) if family == "sam" else None


def _onnx(folder: Path) -> Sniffed | None:
    graphs = sorted(folder.glob("*.onnx"))
    return Sniffed(provider="onnx", type="tensor", why=graphs[0].name) if len(graphs) == 1 else None


def _saved_model(folder: Path) -> Sniffed | None:
    name = "saved_model.pb"
    return Sniffed(provider="tensorflow", type="tensor", why=name) if (folder / name).is_file() else None


def _mlflow(folder: Path) -> Sniffed | None:
    """MLflow's directory: a flavour that is run here, in the folder that it names."""
    if not (folder / "MLmodel").is_file():
        return None
    flavours = _flavours(folder / "MLmodel")
    for flavour, key in (("onnx", "data"), ("tensorflow", "data"), ("transformers", "model_binary")):
        told = flavours.get(flavour)
        inner = told.get(key) if isinstance(told, dict) else None
        if isinstance(inner, str):
            within = (folder / inner).resolve()
            root = within.parent if within.suffix == ".onnx" else within
            if not root.is_relative_to(folder.resolve()) or not root.is_dir():
                raise ValidationFailed("MLmodel names a folder that is not in it", field="MLmodel", found=inner[:80])
            found = _of_files(root)
            return Sniffed(
                provider=found.provider,
                type=found.type,
                why=f"MLmodel: {flavour}, {found.why}",
                root="" if root == folder.resolve() else str(root.relative_to(folder.resolve())),
            )
    have = ", ".join(sorted(flavours)) or "none"
    said = "no flavour of this MLflow model is served"
    raise ValidationFailed(said, field="MLmodel", found=have, expected="onnx, tensorflow or transformers")


_TELLERS: tuple[Callable[[Path], Sniffed | None], ...] = (_open_clip, _transformers, _saved_model, _onnx)


def _flavours(path: Path) -> dict[str, Any]:
    """Raises ValidationFailed for what is no YAML."""
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        said = str(cause).splitlines()[0]
        raise ValidationFailed(f"MLmodel cannot be read: {said}", field="files", found="MLmodel") from cause
    found = told.get("flavors") if isinstance(told, dict) else None
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any] | None:
    """None where it is not there; raises ValidationFailed for what is no object."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as cause:
        raise ValidationFailed(f"{path.name} cannot be read: {cause}", field="files", found=path.name) from cause
    return told
