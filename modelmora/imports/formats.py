"""Which family a folder of files belongs to, told from the files themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmora.domain.models import ModelType
from modelmora.errors import ValidationFailed
from modelmora.imports.pickles import suspicious

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
    from modelmora.imports import mlflow  # noqa: PLC0415 - which sniffs what is in its directory

    return mlflow.sniff(folder) if mlflow.is_one(folder) else sniff_files(folder)


def sniff_files(folder: Path) -> Sniffed:
    """As `sniff`, of the files themselves."""
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
    refuse_executables({str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()})


def refuse_executables(files: Mapping[str, Path]) -> None:
    """As `refuse_executable`, of files by the names that they are told by."""
    found: list[str] = []
    for name, path in sorted(files.items()):
        if path.suffix.lower() not in PICKLED:
            continue
        try:
            names = suspicious(path)
        except (ValueError, EOFError, RecursionError) as cause:
            names = [f"nothing that can be read ({cause})"]
        if names:
            found.append(f"{name} would import {', '.join(names[:5])}")
    if found:
        named = "; ".join(found)[:2_000]
        said = f"files that would execute code when they are read are not taken ({named}); store weights as safetensors"
        raise ValidationFailed(said, field="files", found=named, expected="weights alone")


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
    """The file that the provider takes unless told otherwise."""
    usual = [name for name in ("model.onnx", "onnx/model.onnx") if (folder / name).is_file()]
    graphs = usual[:1] or sorted(path.name for path in folder.glob("*.onnx"))
    return Sniffed(provider="onnx", type="tensor", why=graphs[0]) if len(graphs) == 1 else None


def _saved_model(folder: Path) -> Sniffed | None:
    name = "saved_model.pb"
    return Sniffed(provider="tensorflow", type="tensor", why=name) if (folder / name).is_file() else None


def _sam_checkpoint(folder: Path) -> Sniffed | None:
    """Meta's own file (segment_anything/build_sam.py)."""
    files = sorted(folder.glob("*.pth"))
    one = len(files) == 1 and files[0].name.startswith("sam_vit_")
    return Sniffed(provider="sam", type="segmentation", why=files[0].name) if one else None


_TELLERS: tuple[Callable[[Path], Sniffed | None], ...] = (
    _open_clip,
    _transformers,
    _saved_model,
    _onnx,
    _sam_checkpoint,
)


def read_text(path: Path) -> str:
    """A file that tells of a model; raises ValueError for one that is too large or no text, OSError."""
    if (size := path.stat().st_size) > MOST_CONFIG_BYTES:
        raise ValueError(f"it has {size} bytes")
    return path.read_text(encoding="utf-8")


def _json(path: Path) -> dict[str, Any] | None:
    """None where it is not there; raises ValidationFailed for what is no object."""
    if not path.is_file():
        return None
    try:
        told = json.loads(read_text(path))
        if not isinstance(told, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as cause:
        raise ValidationFailed(f"{path.name} cannot be read: {cause}", field="files", found=path.name) from cause
    return told
