"""A network of torch in memory: what those of every library have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from modelmora.domain.description import Description
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


class Network:
    """Its batches may come from several threads at once."""

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

    def run(
        self,
        batch: Sequence[NDArray[np.generic]],
        compute: Compute,
        *,
        through: nn.Module,
        threads: int = 0,
        tell: Tell | None = None,
    ) -> NDArray[np.float32]:
        """What `compute` makes of the batch stacked on the device; `tell` is told of the layers of `through`.

        Raises OutOfMemory.
        """
        if self.device == "cpu":
            use_threads(threads or self._threads)
        much = f"a batch of {len(batch)} for {self.description.model} does not fit into the memory of {self.device}"
        with exhaustion.told_as_one(much), torch.inference_mode(), telling(through, tell):
            return self._transfer.run(batch, compute)

    def normalised(self, stacked: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) in the network's number format, of (n, height, width, 3) bytes."""
        return self._pixels.of(stacked, self._dtype)

    def close(self) -> None:
        self._model = None
