"""What the servers answer, read as vectors: a fast answer that holds no embedding is no answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from load.bench.plan import Party

Vector = NDArray[np.float32]


def ours(body: bytes) -> Vector:
    """The one embedding of our HTTP answer, in base64 or as numbers; raises ValueError when it is not there."""
    try:
        embedding = json.loads(body)["data"][0]["embedding"]
    except (ValueError, LookupError, TypeError) as bad:
        raise ValueError(f"no embedding in the answer {body[:200]!r}") from bad
    return checked(from_base64(embedding) if isinstance(embedding, str) else embedding)


def classes(body: bytes) -> Vector:
    """The scores of our classification in the order of the labels, less their mean: random networks find everything
    equally likely. Raises ValueError when there are none."""
    try:
        found = json.loads(body)["data"][0]["classes"]
        scores = [one["score"] for one in sorted(found, key=lambda one: int(one["index"]))]
    except (ValueError, LookupError, TypeError) as bad:
        raise ValueError(f"no classes in the answer {body[:200]!r}") from bad
    return centred(scores)


def centred(scores: Sequence[float]) -> Vector:
    """Less their mean; raises ValueError where nothing is left."""
    values = np.asarray(scores, dtype=np.float64)
    return checked(values - values.mean())


def bentoml(body: bytes) -> Vector:
    """The one row of the plain service's answer; raises ValueError when it is not there."""
    try:
        return checked(json.loads(body)[0])
    except (ValueError, LookupError, TypeError) as bad:
        raise ValueError(f"no embedding in the answer {body[:200]!r}") from bad


def litserve(body: bytes) -> Vector:
    """The one embedding of LitServe's answer; raises ValueError when it is not there."""
    try:
        return checked(json.loads(body)["embedding"])
    except (ValueError, LookupError, TypeError) as bad:
        raise ValueError(f"no embedding in the answer {body[:200]!r}") from bad


def mlserver(body: bytes) -> Vector:
    """The one row of the answer's tensor; raises ValueError when it is not there."""
    try:
        return checked(json.loads(body)["outputs"][0]["data"])
    except (ValueError, LookupError, TypeError) as bad:
        raise ValueError(f"no embedding in the answer {body[:200]!r}") from bad


def reader(party: Party) -> Callable[[bytes], Vector]:
    """What reads the answers of that server; raises KeyError for the loop, which has none."""
    return _READERS[party]


_READERS: Mapping[Party, Callable[[bytes], Vector]] = {
    "ours": ours,
    "infinity": ours,  # both answer as OpenAI does
    "bentoml": bentoml,
    "litserve": litserve,
    "litserve-tuned": litserve,
    "mlserver": mlserver,
}


def from_base64(text: str) -> Vector:
    """Little-endian float32."""
    return cast("Vector", np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4"))


def checked(values: Sequence[float] | NDArray[Any]) -> Vector:
    """A finite vector that is not zero; raises ValueError on anything else."""
    vector = np.asarray(values, dtype=np.float32)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all() or not vector.any():
        raise ValueError(f"an embedding of shape {vector.shape} that is empty, zero or not finite")
    return vector


def cosine(one: Vector, other: Vector) -> float:
    """How alike two vectors point, 1 at most; raises ValueError when their sizes differ."""
    if one.shape != other.shape:
        raise ValueError(f"vectors of {one.size} and {other.size} components are not of one model")
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
