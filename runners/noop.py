"""No network: vectors made of the input's bytes, to measure what everything around a forward pass costs.

A measuring and test instrument, not a model. `config`: `dimension` (8) of the vectors; `shortens` (0: not at all), how
far they may be cut; `delay_ms` (0) that a batch holds its lane; `image_size` (0: takes no pictures) in pixels a side;
`fail_on`, a text whose presence in an input makes the batch raise; `crash_on`, one that ends the process as a crash
would; `hang_on`, one with which the batch never comes back.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.errors import ModelLoadFailed
from runners.provider import Embeds, Provider, Tell, refuse_unknown
from runners.shortening import KEY, shortest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARKS = ("fail_on", "crash_on", "hang_on")
_DEFAULTS: dict[str, Any] = {"dimension": 8, "delay_ms": 0.0, "image_size": 0, KEY: 0, **dict.fromkeys(_MARKS, "")}


@dataclass(frozen=True, slots=True)
class Noop:
    """A "model": a deterministic function of the bytes of each input."""

    description: Description
    delay_s: float = 0.0
    fail_on: bytes = b""
    crash_on: bytes = b""
    hang_on: bytes = b""
    device: str = "cpu"
    precision: str = "fp32"
    weight_bytes: int = 0

    def sample(self, task: Task) -> NDArray[np.generic]:
        if task == "embed_image" and self.description.image is not None:
            return np.zeros((self.description.image.height, self.description.image.width, 3), dtype=np.uint8)
        return np.frombuffer(b"warm-up", dtype=np.uint8)

    def tokenize(self, text: str, *, truncate: bool) -> NDArray[np.generic]:
        """The UTF-8 itself; nothing is too long."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        contents = [item.tobytes() for item in batch]
        time.sleep(self.delay_s)
        if self.crash_on and any(self.crash_on in content for content in contents):
            os._exit(70)
        if self.hang_on and any(self.hang_on in content for content in contents):
            threading.Event().wait()
        if self.fail_on and any(self.fail_on in content for content in contents):
            raise RuntimeError(f"an item contains {self.fail_on.decode()!r}, as configured by fail_on")
        return np.stack([_vector(content, self.description.dimension) for content in contents])

    def close(self) -> None:
        """Nothing is held."""


def _vector(content: bytes, dimension: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(dimension, dtype=np.float32)
    return vector / np.linalg.norm(vector)


class NoopProvider:
    """Makes `Noop` models; they have no files."""

    def tasks(self) -> frozenset[Task]:
        return frozenset({"embed_text", "embed_image"})

    def layout(self) -> None:
        return None

    def needs_files(self) -> bool:
        return False

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        config = _config(spec)
        size = config["image_size"]
        return Description(
            model=spec.key,
            dimension=config["dimension"],
            image=Preprocess(resize="exact", height=size, width=size) if size else None,
            text=TextPreprocess(tokenizer="bytes", context_length=0),
            max_batch=spec.batching.max_batch or 16,
            shortens=shortest(spec, config["dimension"]),
        )

    def prepare(self) -> None:
        """Nothing to import."""

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Noop:
        config = _config(spec)
        return Noop(
            description=self.describe(spec, folder),
            delay_s=config["delay_ms"] / 1e3,
            fail_on=config["fail_on"].encode(),
            crash_on=config["crash_on"].encode(),
            hang_on=config["hang_on"].encode(),
        )


def _config(spec: ModelSpec) -> dict[str, Any]:
    """The configuration with its defaults; raises ModelLoadFailed for what cannot be."""
    refuse_unknown(spec, list(_DEFAULTS))
    config = {**_DEFAULTS, **spec.config}
    for key, lowest in (("dimension", 1), ("delay_ms", 0), ("image_size", 0)):
        kinds = (int, float) if key == "delay_ms" else (int,)
        if type(config[key]) not in kinds or config[key] < lowest:
            raise ModelLoadFailed(
                f"{spec.key}: config.{key} must be a number of at least {lowest}, not {config[key]!r}"
            )
    for key in _MARKS:
        if not isinstance(config[key], str):
            raise ModelLoadFailed(f"{spec.key}: config.{key} must be a text, not {config[key]!r}")
    return config


PROVIDER: Provider[Embeds] = NoopProvider()
