"""How many cores the operations of a thread use."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """How many cores the calling thread's operations use from now on (0: as it is).

    torch keeps the number for each thread (OpenMP's and MKL's are local), but a thread that computes or asks for the
    first time takes over the one that was set last by any thread. So it is asked first, and set only when it differs.
    """
    if count and torch.get_num_threads() != count:
        torch.set_num_threads(count)
