"""How far a forward is, told layer by layer to whoever asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch import nn

from runners.provider import Tell


def layers_of(tower: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: what stands in its outermost lists, in their order."""
    found: list[nn.Module] = []
    for child in tower.children():
        found += list(child) if isinstance(child, nn.ModuleList | nn.Sequential) else layers_of(child)
    return found


@contextlib.contextmanager
def telling(tower: nn.Module, tell: Tell | None) -> Iterator[None]:
    """Tells `(done, total)` of the tower's layers that this thread runs within the block.

    The hooks stand only until it ends, and other threads' batches do not count. On a GPU a layer counts when its work
    is handed over, which is before it is done.
    """
    if tell is None:
        yield
        return
    layers, asker, done = layers_of(tower), threading.get_ident(), 0

    def count(*_: object) -> None:
        nonlocal done
        if threading.get_ident() == asker:
            done += 1
            tell(min(done, len(layers)), len(layers))

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
