"""Which libraries there are beside torch, and what each can compute in."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

Format = Literal["fp32", "bf16", "int8"]
Kind = Literal["onnxruntime", "openvino"]

FORMATS: Mapping[Kind, tuple[Format, ...]] = MappingProxyType(
    {"onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
)

Samples: TypeAlias = "list[NDArray[np.generic]]"


class Session(Protocol):
    """A network ready to run; may be called from several threads at once."""

    def run(self, stacked: NDArray[np.generic]) -> NDArray[np.float32]:
        """Rows of a batch."""
        ...

    def close(self) -> None:
        """Frees the memory."""
        ...


class EngineLibrary(Protocol):
    """One file in this folder per library, named as the registry's `engine`."""

    def version(self) -> str:
        """Of the library; raises ModelLoadFailed where it is not installed."""
        ...

    def export(self, module: nn.Module, sample: NDArray[np.generic], file: Path) -> None:
        """Writes the network in fp32, its batch of any size."""
        ...

    def quantize(self, file: Path, samples: Samples, options: Mapping[str, object]) -> None:
        """Replaces the network of the file by one in int8, calibrated with the samples."""
        ...

    def open(self, file: Path, format_: Format, *, threads: int) -> Session: ...


def library(kind: Kind) -> EngineLibrary:
    """The library of an engine."""
    return cast(EngineLibrary, importlib.import_module(f"runners.engines.{kind}").LIBRARY)


def installed(kind: Kind) -> bool:
    """Whether the library is there."""
    try:
        library(kind).version()
    except ModelLoadFailed:
        return False
    return True


def versions() -> Iterator[str]:
    """Of the packages beside torch and the library itself that have a part in an export."""
    for name in ("nncf", "onnx", "open-clip-torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def asked(spec: ModelSpec) -> tuple[Kind, Format] | None:
    """What the model is declared to be run by, and in; None: by torch.

    An `auto` that was not found to be something else is torch, and fp32. Raises ModelLoadFailed naming what the engine
    can compute in.
    """
    if not spec.exported:
        return None
    engine = cast(Kind, spec.engine)
    wanted, can = "fp32" if spec.precision == "auto" else spec.precision, FORMATS[engine]
    for format_ in can:
        if format_ == wanted:
            return engine, format_
    said = f"engine {engine} does not compute in {wanted}; it can do {', '.join(can)}"
    raise ModelLoadFailed(f"{spec.key}: {said}", field="precision", found=wanted, expected=", ".join(can))
