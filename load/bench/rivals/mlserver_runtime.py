"""The same model in MLServer, written as its guide to custom runtimes does: what ours is compared with.

It runs in MLServer's own environment, so that it knows nothing of ModelMora.
"""

from __future__ import annotations

import io
from typing import Any

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from PIL import Image


class Clip(MLModel):
    """Embeds pictures; MLServer collects the callers' single pictures into batches."""

    async def load(self) -> bool:
        """In the server's process: `parallel_workers: 0`, its default crashes at the start."""
        import open_clip  # noqa: PLC0415 (as in its guide)
        import torch  # noqa: PLC0415

        self.torch = torch
        extra: dict[str, Any] = self.settings.parameters.extra
        model, _, self.transform = open_clip.create_model_and_transforms(
            f"local-dir:{extra['folder']}", precision="fp32", device="cpu"
        )
        self.model = model.eval()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Pictures in base64 to (pictures, dimension), L2-normalised."""
        pictures = Base64Codec.decode_input(payload.inputs[0])
        with self.torch.inference_mode():
            batch = self.torch.stack([self.transform(Image.open(io.BytesIO(picture))) for picture in pictures])
            features = self.model.encode_image(batch, normalize=True).numpy()
        output = NumpyCodec.encode_output("embedding", features)
        return InferenceResponse(model_name=self.name, outputs=[output])
