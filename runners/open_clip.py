"""The provider of CLIP and its kin: any open_clip architecture, from a folder as open_clip itself stores a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.preprocess import Description
from modelmora.errors import ModelLoadFailed
from runners.open_clip_config import describe, read_config

if TYPE_CHECKING:
    from runners.open_clip_network import OpenClip


class OpenClipProvider:
    """Serves folders with `open_clip_config.json` and `open_clip_model.safetensors` (or `open_clip_pytorch_model.bin`).

    `config` may name a built-in `architecture` for a folder with weights alone, and override `preprocess`.
    """

    def tasks(self) -> frozenset[Task]:
        return frozenset({"embed_image", "embed_text"})

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        return describe(spec, read_config(spec, _given(spec, folder)))

    def prepare(self) -> None:
        import runners.open_clip_network  # noqa: F401, PLC0415 - torch and open_clip, which takes seconds

    def load(self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int) -> OpenClip:
        precision = _available(spec)
        folder = _given(spec, folder)
        config = read_config(spec, folder)
        description = describe(spec, config)

        import torch  # noqa: PLC0415 - here and below: to describe a model needs no torch, and it takes seconds to import

        from runners.open_clip_network import load_network  # noqa: PLC0415

        torch.set_num_threads(threads)
        return load_network(spec, config, folder, description=description, device=device, precision=precision)


def _given(spec: ModelSpec, folder: Path | None) -> Path:
    if folder is None:
        raise ModelLoadFailed(f"{spec.key}: provider open_clip needs a folder with open_clip_config.json and weights")
    return folder


def _available(spec: ModelSpec) -> Literal["fp32", "bf16", "fp16"]:
    if spec.engine != "torch":
        raise ModelLoadFailed(f"{spec.key}: engine {spec.engine!r} is not available yet; use torch", field="engine")
    match spec.precision:
        case "fp32" | "bf16" | "fp16":
            return spec.precision
        case "int8" | "auto":
            said = f"precision {spec.precision!r} is not available yet; use fp32, bf16 or fp16"
            raise ModelLoadFailed(f"{spec.key}: {said}", field="precision")


PROVIDER = OpenClipProvider()
