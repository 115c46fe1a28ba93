"""MLflow's model directory: which of its flavours is run here, where its files lie, and what its signature says.

The layout is that of mlflow 2 and 3 (mlflow/{onnx,tensorflow,transformers}/__init__.py, mlflow/models/model.py).
Neither mlflow nor any of the code that a directory may carry is needed or run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelmora.domain.tensors import ITEM_BYTES
from modelmora.errors import CapabilityMissing, ValidationFailed
from modelmora.imports.formats import Sniffed, read_text, sniff_files

FILE = "MLmodel"
_RUN: Mapping[str, tuple[str, ...]] = {
    "onnx": ("data",),
    "tensorflow": ("saved_model_dir", "data"),
    "transformers": ("model_binary",),
}
"""The flavours that are run here, and under which keys each names its files."""

_PICKLED = ("pytorch", "sklearn", "fastai", "statsmodels", "python_function")
_PROCESSOR = "preprocessor_config.json"


def is_one(folder: Path) -> bool:
    return (folder / FILE).is_file()


def sniff(folder: Path) -> Sniffed:
    """Raises ValidationFailed naming its flavours where none is run here."""
    told = _read(folder / FILE)
    flavours = told.get("flavors")
    flavours = flavours if isinstance(flavours, dict) else {}
    for name, keys in _RUN.items():
        inner = _first(flavours.get(name), keys)
        if inner is not None:
            root = _root(folder, inner)
            found = sniff_files(root)
            within = root.relative_to(folder.resolve()).as_posix()
            return Sniffed(
                provider=found.provider,
                type=found.type,
                why=f"{FILE}: {name}, {found.why}",
                root="" if within == "." else within,
                config=_schema(told.get("signature")) if found.type == "tensor" else {},
            )
    raise _refused(folder, flavours)


def beside(folder: Path) -> Mapping[str, Path]:
    """What transformers' flavour keeps apart from the model, and the model needs: how its pictures are prepared."""
    places = (folder / "components" / name / _PROCESSOR for name in ("image_processor", "feature_extractor"))
    found = next((place for place in places if place.is_file()), None)
    return {_PROCESSOR: found} if found else {}


def provenance(folder: Path) -> dict[str, Any]:
    """Which run it came from, as training's parameters."""
    told = _read(folder / FILE)
    known = {key: told[key] for key in ("run_id", "model_uuid", "mlflow_version") if isinstance(told.get(key), str)}
    return {"parameters": {"mlflow": known}} if known else {}


def _first(told: Any, keys: tuple[str, ...]) -> str | None:
    named = (told.get(key) for key in keys) if isinstance(told, dict) else ()
    return next((value for value in named if isinstance(value, str) and value), None)


def _root(folder: Path, inner: str) -> Path:
    """The folder with the model's files; raises ValidationFailed where that is not in the directory."""
    within, whole = (folder / inner).resolve(), folder.resolve()
    root = within.parent if within.suffix == ".onnx" else within
    if not root.is_relative_to(whole) or not root.is_dir():
        raise ValidationFailed(f"{FILE} names a folder that is not in it", field=FILE, found=inner[:80])
    keras = root / "model"  # `data/model`, where Keras saved it as a SavedModel
    return keras if (keras / "saved_model.pb").is_file() else root


def _refused(folder: Path, flavours: Mapping[str, Any]) -> ValidationFailed:
    have = ", ".join(sorted(map(str, flavours))) or "none"
    said = "no flavour of this MLflow model is served"
    if "transformers" in flavours:
        said = "this MLflow model names its weights on a hub and does not hold them (it was saved with a reference)"
    elif pickled := [name for name in _PICKLED if name in flavours]:
        said = f"the flavour {pickled[0]} is pickled Python code, which is never run; export the model to ONNX"
    return ValidationFailed(said, field=FILE, found=have, expected="onnx, tensorflow or transformers")


def _schema(signature: Any) -> dict[str, Any]:
    """`inputs` and `outputs` of the provider's `config`, where the signature has tensors with names.

    Nothing where one is float64: MLflow notes what a caller gave, and gives the model what it takes.
    """
    told = signature if isinstance(signature, dict) else {}
    found = {name: [*_tensors(told.get(name))] for name in ("inputs", "outputs")}
    whole = all(found.values()) and all(one and one["dtype"] != "float64" for each in found.values() for one in each)
    return found if whole else {}


def _tensors(text: Any) -> Iterator[dict[str, Any] | None]:
    """Each tensor of one half; None for what is no tensor with a name."""
    try:
        listed = json.loads(text) if isinstance(text, str) else []
    except (ValueError, RecursionError):
        listed = []
    for one in listed if isinstance(listed, list) else []:
        yield _tensor(one) if isinstance(one, dict) else None


def _tensor(told: Mapping[str, Any]) -> dict[str, Any] | None:
    name, spec = told.get("name"), told.get("tensor-spec")
    dtype = spec.get("dtype") if isinstance(spec, dict) else None
    shape = spec.get("shape") if isinstance(spec, dict) else None
    sizes = isinstance(shape, list) and all(isinstance(size, int) for size in shape)
    if not isinstance(name, str) or dtype not in ITEM_BYTES or not sizes:
        return None
    return {"name": name, "dtype": dtype, "shape": [_axis(place, size) for place, size in enumerate(shape or ())]}


def _axis(place: int, size: int) -> int | str | None:
    """-1 is any size; the first such axis is how many rows there are."""
    return size if size >= 0 else "batch" if place == 0 else None


def _read(path: Path) -> dict[str, Any]:
    """Raises ValidationFailed for what is no YAML, CapabilityMissing where nothing here reads it."""
    try:
        import yaml  # noqa: PLC0415 - only MLflow's directories need it
    except ModuleNotFoundError as cause:
        raise CapabilityMissing(f"reading {FILE} needs PyYAML: pip install pyyaml", field="path") from cause
    try:
        told = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        said = str(cause).splitlines()[0]
        raise ValidationFailed(f"{FILE} cannot be read: {said}", field="files", found=FILE) from cause
    return told if isinstance(told, dict) else {}
