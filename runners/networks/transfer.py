"""Batches on their way to a device and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Compute: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Transfer(Protocol):
    """Safe to use from several threads at once."""

    def run(self, batch: Sequence[NDArray[np.generic]], compute: Compute) -> NDArray[np.float32]:
        """What `compute` makes of the inputs stacked on the device, brought back when it is done."""
        ...


class Straight:
    """One after the other, in the calling thread: the CPU, and devices without streams."""

    def __init__(self, device: str) -> None:
        self._device = device

    def run(self, batch: Sequence[NDArray[np.generic]], compute: Compute) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = compute(torch.from_numpy(np.stack(batch)).to(self._device)).cpu().numpy()
        return rows


def pinned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory that the device reads and writes by itself, so that a copy need not be waited for."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


class SideStreams:
    """CUDA: each thread that computes has a stream of its own, so that one batch is copied while another runs.

    The weights must be there before: what loads them waits for the device (`settle`). `cuda` and `pinned` are seams.
    """

    def __init__(self, device: str, *, cuda: Any = torch.cuda, pinned: Callable[..., torch.Tensor] = pinned) -> None:
        self._device = device
        self._cuda = cuda
        self._pinned = pinned
        self._own = threading.local()

    def run(self, batch: Sequence[NDArray[np.generic]], compute: Compute) -> NDArray[np.float32]:
        staged = self._pinned((len(batch), *batch[0].shape), _dtype(batch[0]))
        np.stack(batch, out=staged.numpy())
        stream = self._stream()
        with self._cuda.stream(stream):
            answer = compute(staged.to(self._device, non_blocking=True))
            back = self._pinned(answer.shape, answer.dtype)
            back.copy_(answer, non_blocking=True)
        stream.synchronize()
        rows: NDArray[np.float32] = back.numpy()
        return rows

    def _stream(self) -> Any:
        if not hasattr(self._own, "stream"):
            self._own.stream = self._cuda.Stream(device=self._device)
        return self._own.stream


def _dtype(array: NDArray[np.generic]) -> torch.dtype:
    """What torch calls its numbers; it would warn of the array itself, which came read-only over the wire."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def transfer_to(device: str) -> Transfer:
    """How batches reach a device."""
    return SideStreams(device) if device.startswith("cuda") else Straight(device)


def settle(device: str) -> None:
    """Waits until all that was asked of the device so far is done, whichever stream it was asked on."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
