"""The reference loop, a process of its own: decode, the library's own preprocessing, the network, and no more.

It reads commands and writes answers as lines of JSON; between commands it sleeps.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as in the runners

import torch
from PIL import Image

from load.bench import pictures
from load.bench.libraries import Library, open_library
from load.bench.stats import percentile


@dataclass(slots=True)
class Reference:
    """The model of a folder and the pictures of another, decoded and embedded over and over."""

    library: Library
    jpegs: list[bytes]
    next_picture: int = 0

    @classmethod
    def open(cls, weights: Path, images: Path) -> Reference:
        """fp32 on the CPU, as the services are measured."""
        return cls(open_library(weights), pictures.read(images))

    @torch.inference_mode()
    def embed(self, jpegs: list[bytes]) -> torch.Tensor:
        """(pictures, dimension) vectors of length 1, or (pictures, labels) scores less their mean."""
        return self.library.rows([Image.open(io.BytesIO(jpeg)) for jpeg in jpegs])

    def batch(self, size: int) -> list[bytes]:
        """The next pictures in turn."""
        first = self.next_picture
        self.next_picture = (first + size) % len(self.jpegs)
        return [self.jpegs[(first + place) % len(self.jpegs)] for place in range(size)]

    def window(self, *, batch: int, seconds: float, batches: int) -> dict[str, Any]:
        """At least so many seconds and so many batches: wall and CPU seconds of this process, and of one batch."""
        self.embed(self.batch(batch))  # the first batch of a size is slower: buffers are made for it
        ends, cpu = [time.perf_counter()], time.process_time()
        while len(ends) <= batches or ends[-1] - ends[0] < seconds:
            self.embed(self.batch(batch))
            ends.append(time.perf_counter())
        took_ms = [1000 * (end - begin) for begin, end in pairwise(ends)]
        return {
            "items": len(took_ms) * batch,
            "wall_s": ends[-1] - ends[0],
            "cpu_s": time.process_time() - cpu,
            **{f"p{share}_ms": percentile(took_ms, share / 100) for share in (50, 95, 99)},
        }


def answer(reference: Reference, command: dict[str, Any]) -> dict[str, Any]:
    """What one command gives; raises KeyError on a command that is not one."""
    match command.pop("do"):
        case "describe":
            return {"threads": torch.get_num_threads(), "torch": torch.__version__, **reference.library.facts}
        case "embed":
            return {"vectors": reference.embed(reference.jpegs[: command["count"]]).tolist()}
        case "window":
            return reference.window(**command)
        case other:
            raise KeyError(other)


def main(weights: str, images: str, threads: str) -> None:
    """`threads` 0 leaves what torch takes by itself."""
    if int(threads):
        torch.set_num_threads(int(threads))
    reference = Reference.open(Path(weights), Path(images))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(reference, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
