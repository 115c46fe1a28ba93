"""A plain BentoML service of the same model, written as BentoML's own CLIP example is: what ours is compared with."""

from __future__ import annotations

import os

import bentoml
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image


@bentoml.service(resources={"memory": "4Gi"}, traffic={"timeout": 120})
class PlainClip:
    """Embeds pictures; BentoML collects the callers' single pictures into batches."""

    def __init__(self) -> None:
        import open_clip  # noqa: PLC0415 (in the worker only, as in BentoML's example)
        import torch  # noqa: PLC0415

        if threads := int(os.environ.get("PLAIN_CLIP_THREADS", "0")):
            torch.set_num_threads(threads)
        self.torch = torch
        model, _, self.transform = open_clip.create_model_and_transforms(
            f"local-dir:{os.environ['PLAIN_CLIP_FOLDER']}", precision="fp32", device="cpu"
        )
        self.model = model.eval()

    # The latency limit sheds load: with the default of a minute no request of 64 callers is refused.
    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def encode_image(self, items: list[Image]) -> NDArray[np.float32]:
        """(pictures, dimension), L2-normalised."""
        with self.torch.inference_mode():
            batch = self.torch.stack([self.transform(item) for item in items])
            features: NDArray[np.float32] = self.model.encode_image(batch, normalize=True).numpy()
            return features
