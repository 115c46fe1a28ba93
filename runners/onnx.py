"""The provider of ONNX models: tensors in, tensors out, computed by onnxruntime.

`config`: `file` (the folder's `model.onnx`, `onnx/model.onnx` or its only *.onnx), and what `docs/tensors.md` tells of
`inputs`, `outputs`, `preprocess` and `sample`.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners.inputs.schema import Schema, read_schema
from runners.networks.tensors.batches import refuse_precision
from runners.networks.tensors.onnx_graph import OnnxFile, read_onnx
from runners.provider import Predicts, Provider, Tell

if TYPE_CHECKING:
    from runners.networks.tensors.onnx_session import OnnxModel

INSTALL = "pip install 'modelmora[onnx]'"
USUAL = ("model.onnx", "onnx/model.onnx")


class OnnxProvider:
    """Serves folders with an ONNX file; weights may lie beside it, as external data."""

    def tasks(self) -> frozenset[Task]:
        return frozenset({"predict"})

    def layout(self) -> Layout:
        beside = tuple(name + ending for name in USUAL for ending in ("_data", ".data"))
        return Layout(None, USUAL, ("config.json", *beside))

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        schema, _ = _read(spec, _find(spec, folder))
        return schema.description(spec)

    def prepare(self) -> None:
        """Raises ModelLoadFailed where onnxruntime is not installed."""
        try:
            import runners.networks.tensors.onnx_session  # noqa: F401, PLC0415 - onnxruntime, which describing needs not
        except ModuleNotFoundError as cause:
            if (cause.name or "").partition(".")[0] != "onnxruntime":
                raise
            raise ModelLoadFailed(f"onnxruntime is not installed here: {INSTALL}", field="provider") from cause

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> OnnxModel:
        refuse_precision(spec)
        _refuse_engine(spec)
        path = _find(spec, folder)
        schema, file = _read(spec, path)
        size = sum(one.stat().st_size for one in (path, *_there(spec, path, file)))
        if tell is not None:
            tell(0, size)
        self.prepare()

        from runners.networks.tensors.onnx_session import load_session  # noqa: PLC0415 - see `prepare`

        model = load_session(spec, path, schema, weight_bytes=size, device=device, threads=threads)
        if tell is not None:
            tell(size, size)
        return model


def _read(spec: ModelSpec, path: Path) -> tuple[Schema, OnnxFile]:
    file = read_onnx(spec, path)
    return read_schema(spec, file.own, also=("file",)), file


def _there(spec: ModelSpec, path: Path, file: OnnxFile) -> tuple[Path, ...]:
    """The files of its weights; raises ModelLoadFailed with those that are missing."""
    missing = [one.relative_to(path.parent).as_posix() for one in file.weights if not one.is_file()]
    if missing:
        raise ModelLoadFailed(f"{spec.key}: {path.name} has weights in {', '.join(missing)}, which is not beside it")
    return file.weights


def _find(spec: ModelSpec, folder: Path | None) -> Path:
    """The model's file; raises ModelLoadFailed where there is none, or more than one and none is named."""
    if folder is None:
        raise ModelLoadFailed(f"{spec.key}: provider onnx needs a folder with an ONNX file")
    named = spec.config.get("file")
    if named is not None:
        return _named(spec, folder, named)
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.glob("*.onnx"))
    if len(found) == 1:
        return folder / found[0]
    there = f"has {len(found)} ONNX files ({', '.join(found[:10])}): name one" if found else "has no ONNX file; name it"
    raise ModelLoadFailed(f"{spec.key}: its folder {there} in config.file", field="config.file", expected="*.onnx")


def _named(spec: ModelSpec, folder: Path, named: object) -> Path:
    inside = (
        isinstance(named, str) and named and not PurePath(named).is_absolute() and ".." not in PurePath(named).parts
    )
    if not inside or not (path := folder / str(named)).is_file():
        said = f"there is no file {named!r} in the model's folder"
        raise ModelLoadFailed(f"{spec.key}: config.file: {said}", field="config.file", found=str(named))
    return path


def _refuse_engine(spec: ModelSpec) -> None:
    """`torch` is what a model has that declares none."""
    if spec.engine == "openvino":
        said = "provider onnx runs on onnxruntime; leave engine out"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="engine", found=spec.engine)


PROVIDER: Provider[Predicts] = OnnxProvider()
