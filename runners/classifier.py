"""The provider of image classifiers: transformers' own families, from a folder as transformers stores a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from runners import precision
from runners.engines.towers import Towers, refuse_exported
from runners.networks.hf import config as hf_config
from runners.networks.hf.processor import PROCESSOR_OF, read_preprocess
from runners.networks.json_files import Json
from runners.precision import Concrete
from runners.provider import Classifies, Provider, Tell, refuse_unknown

if TYPE_CHECKING:
    from runners.networks.hf.network import Classifier

FAMILIES = tuple(PROCESSOR_OF)
"""Those whose preprocessing is done without torch; each has a test."""


class ClassifierProvider:
    """Serves folders with `config.json`, `preprocessor_config.json` and `model.safetensors` (or `pytorch_model.bin`).

    `config` may override `preprocess`.
    """

    def tasks(self) -> frozenset[Task]:
        return frozenset({"classify"})

    def layout(self) -> Layout:
        return hf_config.LAYOUT

    def needs_files(self) -> bool:
        return True

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        refuse_unknown(spec, ("preprocess",))
        given = hf_config.given(spec, folder)
        config = _read(spec, given)
        return Description(
            model=spec.key,
            image=read_preprocess(spec, given, config["model_type"]),
            max_batch=spec.batching.max_batch or 16,
            scoring=hf_config.scoring(spec, config),
            labels=hf_config.labels(spec, config),
        )

    def prepare(self) -> None:
        from transformers import ViTForImageClassification  # noqa: F401, PLC0415 - all families share most of it

        import runners.networks.hf.network  # noqa: F401, PLC0415 - torch

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Classifier:
        """`precision: auto` is fp32 here: what it was found to be is put into `spec` before."""
        refuse_exported(spec)
        description, given = self.describe(spec, folder), hf_config.given(spec, folder)

        from runners.networks.cores import use_threads  # noqa: PLC0415 - torch, which describing needs not
        from runners.networks.hf.build import load  # noqa: PLC0415
        from runners.networks.hf.network import Classifier  # noqa: PLC0415

        format_ = precision.permitted(spec, device)
        use_threads(threads)
        config = _read(spec, given)
        model = load(spec, config, given, classifier=True, device=device, precision=format_, tell=tell)
        network = Classifier(model, description, device=device, precision=format_, threads=threads)
        network.prove()
        return network

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        """See `forms.Choosable`."""
        return precision.native(device)

    def towers(self, spec: ModelSpec, folder: Path | None) -> Towers:
        """See `engines.towers.Exportable`."""
        from runners.networks.hf.build import build  # noqa: PLC0415 - torch
        from runners.networks.hf.towers import LogitTower  # noqa: PLC0415

        given = hf_config.given(spec, folder)
        network, how = build(spec, _read(spec, given), given, classifier=True), self.describe(spec, given).image
        return Towers({"classify": LogitTower(network, how).eval()})

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """See `forms.Choosable`."""
        return hf_config.files(spec, hf_config.given(spec, folder))


def _read(spec: ModelSpec, folder: Path) -> Json:
    return hf_config.read_config(spec, folder, FAMILIES)


PROVIDER: Provider[Classifies] = ClassifierProvider()
