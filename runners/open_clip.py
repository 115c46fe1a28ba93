"""The provider of CLIP and its kin: any open_clip architecture, from a folder as open_clip itself stores a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import TOKENIZER, Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners import precision
from runners.engines.towers import Towers, refuse_exported
from runners.networks.open_clip.config import describe, read_config
from runners.networks.open_clip.scoring import read_scoring
from runners.networks.weight_files import find_first
from runners.precision import Concrete
from runners.provider import Embeds, Provider, Tell

if TYPE_CHECKING:
    from runners.networks.open_clip.network import OpenClip


class OpenClipProvider:
    """Serves folders with `open_clip_config.json` and `open_clip_model.safetensors` (or `open_clip_pytorch_model.bin`).

    `config` may name a built-in `architecture` for a folder with weights alone, override `preprocess`, and say how far
    vectors may be cut (`shortens`).
    """

    def tasks(self) -> frozenset[Task]:
        return frozenset({"embed_image", "embed_text"})

    def layout(self) -> Layout:
        return Layout(
            "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), TOKENIZER
        )

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        given = _given(spec, folder)
        described = describe(spec, read_config(spec, given))
        return replace(described, scoring=read_scoring(spec, given, self.layout().weights))

    def prepare(self) -> None:
        import runners.networks.open_clip.network  # noqa: F401, PLC0415 - torch and open_clip, which takes seconds

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> OpenClip:
        """`precision: auto` is fp32 here: what it was found to be is put into `spec` before."""
        refuse_exported(spec)
        folder = _given(spec, folder)
        format_ = precision.permitted(spec, device)
        config = read_config(spec, folder)
        description = self.describe(spec, folder)

        from runners.networks.open_clip.network import load_network  # noqa: PLC0415 - torch, which describing needs not

        return load_network(
            spec, config, folder, description=description, device=device, precision=format_, threads=threads, tell=tell
        )

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        """See `forms.Choosable`."""
        return precision.native(device)

    def towers(self, spec: ModelSpec, folder: Path | None) -> Towers:
        """See `engines.towers.Exportable`."""
        from runners.networks.open_clip.towers import load_towers  # noqa: PLC0415 - torch

        given = _given(spec, folder)
        return load_towers(spec, read_config(spec, given), given, self.describe(spec, given))

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """See `forms.Choosable`."""
        given = _given(spec, folder)
        return (find_first(spec, given, self.layout().weights), *sorted(given.glob("open_clip_config.json")))


def _given(spec: ModelSpec, folder: Path | None) -> Path:
    if folder is None:
        raise ModelLoadFailed(f"{spec.key}: provider open_clip needs a folder with open_clip_config.json and weights")
    return folder


PROVIDER: Provider[Embeds] = OpenClipProvider()
