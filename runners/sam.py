"""The provider of SAM (Kirillov et al. 2023): segment_anything's networks, from its files or from transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners.networks.sam.config import CONFIG, describe, read_config
from runners.provider import Provider, Segments, Tell

if TYPE_CHECKING:
    from runners.networks.sam.forward import Sam


class SamProvider:
    """Serves folders with `config.json` and `model.safetensors` (or `pytorch_model.bin`), or with one file `*.pth`.

    `config.cache` is how much the embeddings of pictures may take.
    """

    def tasks(self) -> frozenset[Task]:
        return frozenset({"segment"})

    def layout(self) -> Layout:
        return Layout(CONFIG, ("model.safetensors", "pytorch_model.bin"))

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        return describe(spec, read_config(spec, _given(spec, folder)))

    def prepare(self) -> None:
        import runners.networks.sam.network  # noqa: F401, PLC0415 - torch and segment_anything, which takes seconds

    def load(self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None) -> Sam:
        """`precision: auto` is fp32 here."""
        _refuse_others(spec)
        folder = _given(spec, folder)
        config = read_config(spec, folder)

        from runners.networks.sam.network import load_network  # noqa: PLC0415 - torch, which describing needs not

        described = describe(spec, config)
        return load_network(spec, config, folder, description=described, device=device, threads=threads, tell=tell)


def _given(spec: ModelSpec, folder: Path | None) -> Path:
    if folder is None:
        raise ModelLoadFailed(f"{spec.key}: provider sam needs a folder with the model's weights")
    return folder


def _refuse_others(spec: ModelSpec) -> None:
    for field, found, taken in (
        ("engine", spec.engine, ("torch", "auto")),
        ("precision", spec.precision, ("fp32", "auto")),
    ):
        if found not in taken:
            said = f"{spec.key}: provider sam has no {field} {found!r}; use {' or '.join(taken)}"
            raise ModelLoadFailed(said, field=field, found=found, expected=" or ".join(taken))


PROVIDER: Provider[Segments] = SamProvider()
