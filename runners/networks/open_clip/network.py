"""A CLIP network in memory: built, filled and run with torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.factory import _set_model_device_and_precision
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import nn
from torch.nn.functional import normalize

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed, ValidationFailed
from runners.networks import exhaustion
from runners.networks.attention import straighten
from runners.networks.cores import use_threads
from runners.networks.linears import pack
from runners.networks.network import Network
from runners.networks.open_clip.config import CLIP_VOCABULARY, Config, tokenizer_arguments
from runners.networks.open_clip.pooling import pool_early
from runners.networks.open_clip.texts import encode_text
from runners.networks.open_clip.weights import find_weights, put_weights
from runners.networks.pixels import DTYPES
from runners.networks.transfer import settle
from runners.networks.weights import Uninitialised, read_weights
from runners.precision import Concrete

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.provider import Tell


class OpenClip(Network):
    """Pictures and texts to vectors of one space."""

    def __init__(
        self,
        model: nn.Module,
        description: Description,
        *,
        tokenizer: OwnTokenizer | None = None,
        **options: Any,
    ) -> None:
        """`tokenizer` is None where the API tokenises; `options` are those of `Network`."""
        super().__init__(model, description, **options)
        self._tokenizer = tokenizer

    def sample(self, task: Task) -> NDArray[np.generic]:
        image, text = self.description.image, self.description.text
        if task == "embed_image" and image is not None:
            return np.zeros((image.height, image.width, 3), dtype=np.uint8)
        if self._tokenizer is not None:
            return self.tokenize("a picture " * (text.context_length if text else 77), truncate=True)
        tokens = np.full(text.context_length if text else 77, 320, dtype=np.int32)  # "a", as long as a text can be
        tokens[0], tokens[-1] = CLIP_VOCABULARY - 2, CLIP_VOCABULARY - 1  # start and end
        return tokens

    def tokenize(self, text: str, *, truncate: bool) -> NDArray[np.int32]:
        if self._tokenizer is None or self.description.text is None:
            raise ValidationFailed(f"{self.description.model} takes token ids, which the API makes", field="text")
        return self._tokenizer.encode(text, self.description.text.context_length, truncate=truncate)

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        through = self._tower(task)
        return self.run(
            batch, lambda stacked: self._vectors(task, stacked), through=through, threads=threads, tell=tell
        )

    def _tower(self, task: Task) -> nn.Module:
        """The part of the network that a task runs through; where a text tower is not apart, its layers."""
        model = self._model
        tower: nn.Module = model.visual if task == "embed_image" else getattr(model, "text", None) or model.transformer
        return tower

    def _vectors(self, task: Task, stacked: torch.Tensor) -> torch.Tensor:
        return normalize(self._encode(task, stacked).float(), dim=-1)

    def _encode(self, task: Task, stacked: torch.Tensor) -> torch.Tensor:
        match task:
            case "embed_image":
                features: torch.Tensor = self._model.encode_image(self.normalised(stacked))
            case "embed_text":
                features = encode_text(self._model, stacked.long())
            case _:
                raise ValueError(f"{self.description.model} does not {task}")
        return features


class OwnTokenizer:
    """The tokenizer of a model that does not use CLIP's: open_clip's class for it, its files in the model's folder."""

    def __init__(self, spec: ModelSpec, config: Config, folder: Path) -> None:
        """Raises ModelLoadFailed where a package or file is absent."""
        arguments = tokenizer_arguments(spec, config)
        try:
            if config.text.get("hf_tokenizer_name"):
                mode = config.text.get("tokenizer_mode")
                self._tokenizer: Any = HFTokenizer(str(folder), tokenizer_mode=mode, **arguments)
            else:
                self._tokenizer = SimpleTokenizer(**arguments)
        except Exception as cause:  # packages, files and arguments each fail in their own way
            raise ModelLoadFailed(f"{spec.key}: its tokenizer cannot be made: {cause}") from cause

    def encode(self, text: str, context_length: int, *, truncate: bool) -> NDArray[np.int32]:
        """int32 (context_length,) ids as open_clip pads them; raises ValidationFailed unless they fit or `truncate`."""
        found = 0 if truncate else self._count(text)
        if found > context_length:
            raise ValidationFailed(
                f"the text has {found} tokens, the model takes {context_length}; shorten it or ask to truncate",
                field="text",
                found=f"{found} tokens",
                expected=f"<= {context_length} tokens",
            )
        ids: NDArray[np.int32] = self._tokenizer([text], context_length=context_length)[0].numpy().astype(np.int32)
        return ids

    def _count(self, text: str) -> int:
        if isinstance(self._tokenizer, SimpleTokenizer):
            return len(self._tokenizer.encode(text)) + 2  # start and end
        return len(self._tokenizer.tokenizer(self._tokenizer.clean_fn(text))["input_ids"])


def load_network(
    spec: ModelSpec,
    config: Config,
    folder: Path,
    *,
    description: Description,
    device: str,
    precision: Concrete,
    threads: int = 0,
    tell: Tell | None = None,
) -> OpenClip:
    """Raises ModelLoadFailed, ArtifactCorrupt, OutOfMemory."""
    file = find_weights(spec, folder)
    own = description.text is not None and description.text.tokenizer == "runner"
    tokenizer = OwnTokenizer(spec, config, folder) if own else None
    with exhaustion.told_as_one(f"{spec.key} does not fit on {device} beside what is there already"):
        use_threads(threads)
        model = build(spec, config, device=device, precision=precision)
        put_weights(spec, model, read_weights(spec, file), tell=tell)
        straighten(model.eval().requires_grad_(False))
        pool_early(model)
        if device == "cpu":
            pack(model, DTYPES[precision])
        network = OpenClip(model, description, device=device, precision=precision, threads=threads, tokenizer=tokenizer)
        settle(device)
        return network


def build(spec: ModelSpec, config: Config, *, device: str, precision: Concrete) -> nn.Module:
    """The network on its device, its weights not set yet."""
    options = config.for_building()
    custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    architecture = (CoCa if "multimodal_cfg" in options else CustomTextCLIP) if custom else CLIP
    cast = None if precision == "fp32" else DTYPES[precision]
    try:
        with Uninitialised():
            model: nn.Module = architecture(**options, cast_dtype=cast)
        _set_model_device_and_precision(model, torch.device(device), precision, "timm_model_name" in config.vision)
    except Exception as cause:  # a configuration can ask for anything: strange arguments, absent packages or devices
        if exhaustion.is_out_of_memory(cause):
            raise
        raise ModelLoadFailed(f"{spec.key}: the network cannot be built: {cause}") from cause
    return model
