"""The same model in LitServe, written as its own guides write a batched picture model: what ours is compared with."""

# No `from __future__ import annotations`: LitServe reads the type of decode_request's argument.

import base64
import io
import os
from typing import Any

import litserve
from fastapi import Request
from PIL import Image

MAX_BATCH = 16
BATCH_TIMEOUT_S = 0.05
"""Its guides show 0.01 to 0.1. A full batch does not wait; without any its workers ask the queue without a pause."""


class Clip(litserve.LitAPI):
    """Embeds pictures; LitServe collects the callers' single pictures into batches."""

    def setup(self, device: str) -> None:
        """In each worker."""
        import open_clip  # noqa: PLC0415 (in the workers only)
        import torch  # noqa: PLC0415

        if threads := int(os.environ["LITSERVE_CLIP_THREADS"]):
            torch.set_num_threads(threads)
        self.torch = torch
        model, _, self.transform = open_clip.create_model_and_transforms(
            f"local-dir:{os.environ['LITSERVE_CLIP_FOLDER']}", precision="fp32", device=device
        )
        self.model = model.eval()

    def decode_request(self, request: Request, **kwargs: Any) -> Any:
        """The body's JSON, a picture in base64, to (3, height, width)."""
        return self.transform(Image.open(io.BytesIO(base64.b64decode(request["image"]))))

    def batch(self, inputs: Any) -> Any:
        """(pictures, 3, height, width)."""
        return self.torch.stack(inputs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """(pictures, dimension), L2-normalised."""
        with self.torch.inference_mode():
            return self.model.encode_image(x, normalize=True)

    def unbatch(self, output: Any) -> Any:
        """A row a picture."""
        return list(output)

    def encode_response(self, output: Any, **kwargs: Any) -> Any:
        """As numbers in JSON."""
        return {"embedding": output.tolist()}


def main() -> None:
    """Serves on 127.0.0.1 until it is told to end; what it is told by the harness stands in its environment."""
    server = litserve.LitServer(
        Clip(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S),
        accelerator="cpu",
        workers_per_device=int(os.environ["LITSERVE_CLIP_WORKERS"]),
        timeout=120,
        healthcheck_path="/readyz",
    )
    port = int(os.environ["LITSERVE_CLIP_PORT"])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
