"""How each of them is asked for the embedding of one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence

from load.bench.payloads import Payload, picture_json, picture_uploads
from load.bench.plan import Party

_HERE = "the picture"


def requests_of(party: Party, pictures: Sequence[bytes], model: str) -> Payload:
    """Requests of one picture each; raises KeyError for who answers none."""
    if party == "bentoml":
        return picture_uploads("/encode_image", pictures, file_field="items")
    path, body = {
        "litserve": ("/predict", {"image": _HERE}),
        "litserve-tuned": ("/predict", {"image": _HERE}),
        "infinity": (
            "/embeddings",
            {"model": model, "input": f"data:image/jpeg;base64,{_HERE}", "modality": "image"},
        ),
        "mlserver": (
            f"/v2/models/{model}/infer",
            {
                "inputs": [
                    {
                        "name": "image",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"content_type": "base64"},
                        "data": [_HERE],
                    }
                ]
            },
        ),
    }[party]
    before, _, after = json.dumps(body, separators=(",", ":")).partition(_HERE)
    return picture_json(path, pictures, before=before.encode(), after=after.encode())
