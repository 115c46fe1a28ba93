"""Requests of the Open Inference Protocol put together byte by byte, and the models they are for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import Tensor, TensorSpec, pack
from tests.fakes import CATALOGUE, World

NET = ModelSpec(name="net", version="1.2.0", type="tensor", provider="onnx", source="file:net", default=True)
FLAT = ModelSpec(name="flat", version="1.0.0", type="tensor", provider="onnx", source="file:flat")
DESCRIBED = Description(
    model=NET.key,
    max_batch=32,
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", 3)),
        TensorSpec(name="mask", dtype="bool", shape=("batch", None), optional=True),
    ),
    outputs=(
        TensorSpec(name="y", dtype="float64", shape=("batch", 2)),
        TensorSpec(name="label", dtype="bytes", shape=("batch",)),
    ),
)
ALONE = Description(
    model=FLAT.key,
    inputs=(TensorSpec(name="x", dtype="int16", shape=(2, "length")),),
    outputs=(TensorSpec(name="y", dtype="float16", shape=()),),
    batches=False,
)
Y = Tensor(dtype="float64", shape=(2, 2), data=np.array([[0.5, 1.5], [2.5, -3.0]], "<f8").tobytes())
LABEL = Tensor(dtype="bytes", shape=(2,), data=pack([b"cat", "häschen".encode()]))
ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "<f4")
X = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": ROWS.ravel().tolist()}


def tensor_world() -> World:
    """The usual models, and two that take tensors."""
    world = World(catalogue=Catalogue((*CATALOGUE.models, NET, FLAT), CATALOGUE.groups))
    world.describer.known = {NET.key: DESCRIBED, FLAT.key: ALONE}
    world.predictor.gives = {"y": Y, "label": LABEL}
    return world


def images(*pictures: bytes, **more: Any) -> dict[str, Any]:
    """A tensor of pictures, in binary form unless told otherwise; its data goes after the JSON."""
    data = pack(pictures)
    told = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)], **more}
    return told | {"parameters": {"binary_data_size": len(data)}, "data_after": data}


def texts(*contents: str, **more: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(contents)], "data": list(contents)} | more


def body_of(inputs: list[dict[str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """The body and the header that says where its JSON ends."""
    tail = b"".join(told.pop("data_after", b"") for told in inputs)
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + tail, {"inference-header-content-length": str(len(head))} if tail else {}


async def infer(
    http: httpx.AsyncClient, model: str, *inputs: dict[str, Any], headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    content, told = body_of([dict(one) for one in inputs], **more)
    return await http.post(f"/v2/models/{model}/infer", content=content, headers=told | (headers or {}))


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The one string that clients of the protocol show; the rest is as on every route."""
    body = answer.json()
    assert (answer.status_code, body["code"], body["status"]) == (status, code, status), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert isinstance(body["error"], str)
    return str(body["error"])
