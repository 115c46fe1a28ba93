"""transformers' networks of pictures in memory: DINOv2's vectors, and the logits of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from modelmora.domain.description import Description
from modelmora.domain.models import Task
from modelmora.errors import ModelLoadFailed
from runners.networks import exhaustion
from runners.networks.cores import use_threads
from runners.networks.layers import telling
from runners.networks.linears import packed_bytes
from runners.networks.pixels import DTYPES, Pixels
from runners.networks.transfer import Compute, Transfer, transfer_to
from runners.precision import Concrete

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.provider import Tell

Pooling: TypeAlias = Literal["cls", "mean"]


class Network:
    """A network that takes pictures: what all of them have in common."""

    def __init__(
        self,
        model: nn.Module,
        description: Description,
        *,
        device: str,
        precision: Concrete,
        threads: int = 0,
        transfer: Transfer | None = None,
    ) -> None:
        """`threads` are for batches that ask for none (0: as they are)."""
        self._model: Any = model
        self._threads = threads
        self._transfer = transfer or transfer_to(device)
        self._pixels = Pixels(description.image, device)
        self._dtype = DTYPES[precision]
        self.description = description
        self.device = device
        self.precision: str = precision
        tensors = (*model.parameters(), *model.buffers())
        self.weight_bytes = sum(t.numel() * t.element_size() for t in tensors) + packed_bytes(model)

    def sample(self, task: Task) -> NDArray[np.generic]:
        image = self.description.image
        return np.zeros((image.height, image.width, 3) if image else (1, 1, 3), dtype=np.uint8)

    def run(
        self, batch: Sequence[NDArray[np.generic]], compute: Compute, *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        """What `compute` makes of the normalised pixels, (n, 3, height, width) in the model's number format."""
        if self.device == "cpu":
            use_threads(threads or self._threads)
        much = f"a batch of {len(batch)} for {self.description.model} does not fit into the memory of {self.device}"
        with exhaustion.told_as_one(much), torch.inference_mode(), telling(self._model, tell):
            return self._transfer.run(batch, lambda stacked: compute(self._pixels.of(stacked, self._dtype)))

    def close(self) -> None:
        self._model = None


class Dinov2(Network):
    """Pictures to vectors: the class token, or the mean of the patches (Oquab et al. 2023)."""

    def __init__(self, model: nn.Module, description: Description, *, pooling: Pooling, **options: Any) -> None:
        super().__init__(model, description, **options)
        self._pooling = pooling
        self._before_patches = 1 + getattr(self._model.config, "num_register_tokens", 0)

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        if task != "embed_image":
            raise ValueError(f"{self.description.model} does not {task}")
        return self.run(batch, self._vectors, threads=threads, tell=tell)

    def _vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self._model(pixel_values=pixels).last_hidden_state
        if self._pooling == "cls":
            return normalize(tokens[:, 0].float(), dim=-1)
        return normalize(tokens[:, self._before_patches :].float().mean(dim=1), dim=-1)


class Classifier(Network):
    """Pictures to logits, one of each label."""

    def classify(
        self, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        return self.run(batch, self._logits, threads=threads, tell=tell)

    def prove(self) -> None:
        """Runs one picture; raises ModelLoadFailed where the network does not take its size, or has other labels."""
        name, labels = self.description.model, len(self.description.labels)
        try:
            found = self.classify([self.sample("classify")]).shape[1]
        except (ValueError, RuntimeError) as cause:
            raise ModelLoadFailed(f"{name}: the network does not take what its processor makes: {cause}") from cause
        if found != labels:
            said = f"{name}: the network has {found} classes, its configuration names {labels}"
            raise ModelLoadFailed(said, field="config.json: id2label", found=str(labels), expected=str(found))

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(pixel_values=pixels).logits
        return logits.float()
