"""The provider of TensorFlow's SavedModels: tensors in, tensors out.

`config`: `signature` (`serving_default`), and what `docs/tensors.md` tells of `inputs`, `outputs`, `preprocess` and
`sample`. TensorFlow itself is an extra of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners.inputs.schema import Schema, read_schema
from runners.networks.tensors.batches import refuse_precision
from runners.networks.tensors.tf_saved_model import FILE, read_saved_model
from runners.provider import Predicts, Provider, Tell

if TYPE_CHECKING:
    from runners.networks.tensors.tf_program import TensorFlowModel

INSTALL = "pip install 'modelmora[tensorflow]'"


class TensorFlowProvider:
    """Serves SavedModel folders: `saved_model.pb` and `variables/`."""

    def tasks(self) -> frozenset[Task]:
        return frozenset({"predict"})

    def layout(self) -> Layout:
        return Layout(
            FILE, ("variables/variables.data-00000-of-00001",), ("variables/variables.index", "fingerprint.pb")
        )

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        schema, _ = _read(spec, _given(spec, folder))
        return schema.description(spec)

    def prepare(self) -> None:
        """Raises ModelLoadFailed where TensorFlow is not installed."""
        try:
            import runners.networks.tensors.tf_program  # noqa: F401, PLC0415 - TensorFlow, which takes ten seconds
        except ModuleNotFoundError as cause:
            if (cause.name or "").partition(".")[0] != "tensorflow":
                raise
            raise ModelLoadFailed(f"TensorFlow is not installed here: {INSTALL}", field="provider") from cause

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> TensorFlowModel:
        """The graph is looked through before TensorFlow sees it."""
        refuse_precision(spec)
        _refuse_engine(spec)
        folder = _given(spec, folder)
        schema, signature = _read(spec, folder)
        self.prepare()

        from runners.networks.tensors.tf_program import load_program  # noqa: PLC0415 - see `prepare`

        size = sum(path.stat().st_size for path in (folder / "variables").glob("*")) + (folder / FILE).stat().st_size
        if tell is not None:
            tell(0, size)
        model = load_program(
            spec, folder, schema, signature=signature, weight_bytes=size, device=device, threads=threads
        )
        if tell is not None:
            tell(size, size)
        return model


def _read(spec: ModelSpec, folder: Path) -> tuple[Schema, str]:
    own, signature = read_saved_model(spec, folder / FILE)
    return read_schema(spec, own, also=("signature",)), signature


def _given(spec: ModelSpec, folder: Path | None) -> Path:
    if folder is None or not (folder / FILE).is_file():
        raise ModelLoadFailed(f"{spec.key}: provider tensorflow needs a folder with {FILE} (a SavedModel)")
    return folder


def _refuse_engine(spec: ModelSpec) -> None:
    """`torch` is what a model has that declares none."""
    if spec.engine not in ("torch", "auto"):
        said = "provider tensorflow runs on TensorFlow alone; leave engine out"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="engine", found=spec.engine)


PROVIDER: Provider[Predicts] = TensorFlowProvider()
