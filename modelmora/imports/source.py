"""What somebody names as a model on this machine, and the files that it consists of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmora.domain.models import ModelType
from modelmora.errors import ValidationFailed
from modelmora.imports import bento, mlflow
from modelmora.imports.files import Listed, LocalFile, listed, local_file, unreadable
from modelmora.imports.formats import Sniffed, refuse_executables, sniff

TYPES: Mapping[str, ModelType] = {
    "open_clip": "embedding",
    "dinov2": "embedding",
    "classifier": "classification",
    "sam": "segmentation",
    "onnx": "tensor",
    "tensorflow": "tensor",
}
"""What the models of a provider are, where it is told and the type is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A model as it lies here: its files, who runs it as what, and `why` that is known.

    `left_out` are the files and folders that no model is made of; `training` is what the place tells of its origin.
    """

    files: tuple[LocalFile, ...]
    provider: str
    type: ModelType
    why: str
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def read_import(
    place: str | os.PathLike[str], *, provider: str | None = None, type_: ModelType | None = None
) -> Import:
    """A folder, one file, MLflow's directory, or `bentoml:NAME:TAG`; what `provider` and `type_` say is not asked.

    Nothing of it is run. Raises ValidationFailed (no model that is known, a file that would execute code, a link that
    leaves the folder), InvalidInput for what cannot be read, ModelNotFound for a tag that is not in the store.
    """
    named = os.fspath(place)
    if named.startswith(bento.PREFIX):
        folder, origin = bento.found(named.removeprefix(bento.PREFIX))
        return _of_folder(folder, provider, type_, origin=origin, ours=(bento.OWN_FILE,))
    path = Path(named)
    try:
        if path.is_dir():
            origin = mlflow.provenance(path) if mlflow.is_one(path) else {}
            return _of_folder(path, provider, type_, origin=origin)
        return _of_file(path, provider, type_)
    except (OSError, ValueError) as cause:  # ValueError: a null character in the path
        raise unreadable(cause, path) from cause


def _of_folder(
    folder: Path,
    provider: str | None,
    type_: ModelType | None,
    *,
    origin: Mapping[str, Any],
    ours: tuple[str, ...] = (),
) -> Import:
    """All of it but `ours`, which whoever keeps it wrote beside the model."""
    told = _told(folder, provider, type_)
    root = folder / told.root
    there = listed(root)
    files = tuple(file for file in there.files if file.path not in ours)
    if told.root:
        have = {file.path for file in files}
        inside = (folder.resolve(),)
        beside = mlflow.beside(folder).items()
        files += tuple(local_file(at, path, within=inside) for path, at in beside if path not in have)
    return _checked(Listed(files=files, left_out=there.left_out), told, origin)


def _of_file(path: Path, provider: str | None, type_: ModelType | None) -> Import:
    """One that is a model by itself."""
    file = local_file(path, path.name)
    if provider is None and path.suffix == ".onnx":
        provider = "onnx"
    if provider is None:
        said = "one file is a model by itself only if it is an ONNX graph; name the provider, or the folder"
        raise ValidationFailed(said, field="path", found=path.name[:80], expected="a folder, or *.onnx")
    told = Sniffed(provider=provider, type=_type(provider, type_), why=path.name)
    return _checked(Listed(files=(file,)), told, {})


def _told(folder: Path, provider: str | None, type_: ModelType | None) -> Sniffed:
    """What is said of it, and of the rest what its files tell."""
    if provider is not None and not mlflow.is_one(folder):
        return Sniffed(provider=provider, type=_type(provider, type_), why="as it was told")
    found = sniff(folder)
    return Sniffed(
        provider=provider or found.provider,
        type=type_ or (found.type if provider in (None, found.provider) else _type(provider, None)),
        why=found.why,
        root=found.root,
        config=found.config,
    )


def _type(provider: str, type_: ModelType | None) -> ModelType:
    """Raises ValidationFailed where nobody says it."""
    if type_ is None and provider not in TYPES:
        said = f"of which type the models of {provider} are is not known here; name it"
        raise ValidationFailed(said, field="type", found="nothing", expected="embedding, classification, ...")
    return type_ or TYPES[provider]


def _checked(there: Listed, told: Sniffed, origin: Mapping[str, Any]) -> Import:
    """Raises ValidationFailed without files, and for those that would execute code."""
    if not there.files:
        raise ValidationFailed("there are no files to register", field="path", found="an empty folder")
    refuse_executables({file.path: file.at for file in there.files})
    return Import(
        files=there.files,
        provider=told.provider,
        type=told.type,
        why=told.why,
        config=told.config,
        training=origin,
        left_out=there.left_out,
    )
