"""The libraries that the models come from, each used as its own examples use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch.nn.functional import normalize


class Library(Protocol):
    """A model of one of them, in fp32 on the CPU."""

    @property
    def facts(self) -> Mapping[str, str]: ...

    def rows(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """What the model makes of the pictures, a row each."""
        ...


def open_library(folder: Path) -> Library:
    """Of the model in the folder, as its files tell."""
    if (folder / "open_clip_config.json").is_file():
        return OpenClip.open(folder)
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    return Classifier.open(folder) if kind.endswith("ForImageClassification") else Dinov2.open(folder)


@dataclass(frozen=True, slots=True)
class OpenClip:
    """open_clip's image tower."""

    model: Any
    transform: Any
    facts: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> OpenClip:
        import open_clip  # noqa: PLC0415 - seconds, as the others

        model, _, transform = open_clip.create_model_and_transforms(
            f"local-dir:{folder}", precision="fp32", device="cpu"
        )
        return cls(model.eval(), transform, {"open_clip": str(open_clip.__version__)})

    def rows(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_image(
            torch.stack([self.transform(picture) for picture in pictures]), normalize=True
        )
        return features


@dataclass(frozen=True, slots=True)
class Dinov2:
    """transformers' DINOv2: the CLS token."""

    model: Any
    processor: Any
    facts: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> Dinov2:
        import transformers  # noqa: PLC0415

        model = transformers.AutoModel.from_pretrained(folder).eval()
        return cls(model, _processor(folder), {"transformers": transformers.__version__})

    def rows(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        inputs = self.processor(images=list(pictures), return_tensors="pt")
        return normalize(self.model(**inputs).last_hidden_state[:, 0], dim=-1)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A classifier of transformers: its scores, less their mean."""

    model: Any
    processor: Any
    facts: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> Classifier:
        import transformers  # noqa: PLC0415

        model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        return cls(model, _processor(folder), {"transformers": transformers.__version__})

    def rows(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        scores = self.model(**self.processor(images=list(pictures), return_tensors="pt")).logits.softmax(dim=-1)
        rest: torch.Tensor = scores - scores.mean(dim=-1, keepdim=True)
        return rest


def _processor(folder: Path) -> Any:
    """The one that works on Pillow's pictures, as the models were trained."""
    import transformers  # noqa: PLC0415

    told = json.loads((folder / "preprocessor_config.json").read_text())
    name = str(told["image_processor_type"]).removesuffix("Fast").removesuffix("Pil")
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind.from_pretrained(folder)
