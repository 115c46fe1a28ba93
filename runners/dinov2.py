"""The provider of DINOv2, with and without registers: pictures to vectors, from a folder as transformers stores it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners import precision, shortening
from runners.engines.towers import Towers, refuse_exported
from runners.networks.hf import config as hf_config
from runners.networks.hf.processor import read_preprocess
from runners.networks.json_files import Json
from runners.precision import Concrete
from runners.provider import Embeds, Provider, Tell, refuse_unknown

if TYPE_CHECKING:
    from runners.networks.hf.network import Dinov2, Pooling

FAMILIES = ("dinov2", "dinov2_with_registers")


class Dinov2Provider:
    """Serves folders with `config.json`, `preprocessor_config.json` and `model.safetensors` (or `pytorch_model.bin`).

    `config` may say the `pooling` (`cls`, or `mean` of the patches), override `preprocess`, and say how far vectors may
    be cut (`shortens`).
    """

    def tasks(self) -> frozenset[Task]:
        return frozenset({"embed_image"})

    def layout(self) -> Layout:
        return hf_config.LAYOUT

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        refuse_unknown(spec, ("pooling", "preprocess", shortening.KEY))
        _pooling(spec)
        given = hf_config.given(spec, folder)
        config = _read(spec, given)
        dimension = hf_config.whole_number(spec, config, "hidden_size")
        return Description(
            model=spec.key,
            dimension=dimension,
            image=read_preprocess(spec, given, config["model_type"]),
            max_batch=spec.batching.max_batch or 16,
            shortens=shortening.shortest(spec, dimension),
        )

    def prepare(self) -> None:
        from transformers import Dinov2Model, Dinov2WithRegistersModel  # noqa: F401, PLC0415 - takes seconds

        import runners.networks.hf.network  # noqa: F401, PLC0415 - torch

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Dinov2:
        """`precision: auto` is fp32 here: what it was found to be is put into `spec` before."""
        refuse_exported(spec)
        description, given = self.describe(spec, folder), hf_config.given(spec, folder)

        from runners.networks.cores import use_threads  # noqa: PLC0415 - torch, which describing needs not
        from runners.networks.hf.build import load  # noqa: PLC0415
        from runners.networks.hf.network import Dinov2  # noqa: PLC0415

        format_ = precision.permitted(spec, device)
        use_threads(threads)
        config = _read(spec, given)
        model = load(spec, config, given, classifier=False, device=device, precision=format_, tell=tell)
        options = {"device": device, "precision": format_, "threads": threads}
        return Dinov2(model, description, pooling=_pooling(spec), **options)

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        """See `forms.Choosable`."""
        return precision.native(device)

    def towers(self, spec: ModelSpec, folder: Path | None) -> Towers:
        """See `engines.towers.Exportable`."""
        from runners.networks.hf.build import build  # noqa: PLC0415 - torch
        from runners.networks.hf.towers import VectorTower  # noqa: PLC0415

        given = hf_config.given(spec, folder)
        network, how = build(spec, _read(spec, given), given, classifier=False), self.describe(spec, given).image
        return Towers({"embed_image": VectorTower(network, how, _pooling(spec)).eval()})

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """See `forms.Choosable`."""
        return hf_config.files(spec, hf_config.given(spec, folder))


def _pooling(spec: ModelSpec) -> Pooling:
    match spec.config.get("pooling", "cls"):
        case "cls":
            return "cls"
        case "mean":
            return "mean"
        case other:
            raise ModelLoadFailed(
                f"{spec.key}: config.pooling is {other!r}; it takes cls (the class token) or mean (of the patches)",
                field="config.pooling",
                found=str(other)[:80],
                expected="cls, mean",
            )


def _read(spec: ModelSpec, folder: Path) -> Json:
    return hf_config.read_config(spec, folder, FAMILIES)


PROVIDER: Provider[Embeds] = Dinov2Provider()
