"""Small real networks as ONNX files, exported by torch or put together of onnx's own nodes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelmora.domain.models import Batching, ModelSpec

OPSET = 17


def tensor_spec(provider: str = "onnx", *, max_batch: int | None = None, **config: Any) -> ModelSpec:
    """A tensor model whose files are given to the provider as a folder."""
    return ModelSpec(
        name="tested",
        version="1.0.0",
        type="tensor",
        provider=provider,
        source="file:tested",
        config=config,
        batching=Batching(max_batch=max_batch),
    )


def perceptron(*, features: int = 4, classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(features, 16), torch.nn.ReLU(), torch.nn.Linear(16, classes)]
    return torch.nn.Sequential(*layers).eval()


def export(
    network: torch.nn.Module,
    path: Path,
    example: torch.Tensor,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> Path:
    """As torch's exporter writes it; `axes` are the names of those that may differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(own) for name, own in axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return path


def write_perceptron(folder: Path, network: torch.nn.Module) -> Path:
    """`features` [batch, n] to `scores` [batch, classes]."""
    axes = {"features": {0: "batch"}, "scores": {0: "batch"}}
    features = next(layer.in_features for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    example = torch.zeros(2, features)
    return export(network, folder / "model.onnx", example, inputs=["features"], outputs=["scores"], axes=axes)


def value(name: str, dtype: int, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = OPSET,
    ir: int = 8,
) -> onnx.ModelProto:
    made = helper.make_graph(list(nodes), "tested", list(inputs), list(outputs), list(initializers))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=ir)


def write(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def linear(features: int = 4, classes: int = 2, *, dtype: Any = np.float32) -> onnx.ModelProto:
    """`x` [batch, features] times a matrix of 0, 1, 2 ... is `y`."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    matrix = np.arange(features * classes).reshape(features, classes).astype(dtype)
    return graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", code, ["batch", features])],
        [value("y", code, ["batch", classes])],
        [weights("w", matrix)],
    )


def relay(code: int = TensorProto.STRING, shape: Sequence[int | str | None] | None = ("batch",)) -> onnx.ModelProto:
    """What comes as `x` goes as `y`."""
    return graph([helper.make_node("Identity", ["x"], ["y"])], [value("x", code, shape)], [value("y", code, shape)])


def species() -> onnx.ModelProto:
    """A linear classifier as scikit-learn's are converted: the species as a text, and its probabilities."""
    labels, coefficients = [b"setosa", b"versicolor", b"virginica"], np.arange(12, dtype=np.float32) / 10
    node = helper.make_node(
        "LinearClassifier",
        ["measured"],
        ["species", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_strings=labels,
        coefficients=coefficients.tolist(),
        intercepts=[0.5, 0.0, -0.5],
        post_transform="SOFTMAX",
    )
    return graph(
        [node],
        [value("measured", TensorProto.FLOAT, [None, 4])],
        [value("species", TensorProto.STRING, [None]), value("probabilities", TensorProto.FLOAT, [None, 3])],
    )


def endless() -> onnx.ModelProto:
    """A loop whose condition always holds."""
    ends = [value("step", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("y_in", 1, ["batch"])]
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Neg", ["y_in"], ["y_out"])],
        "body",
        ends,
        [value("on_out", TensorProto.BOOL, []), value("y_out", TensorProto.FLOAT, ["batch"])],
    )
    loop = helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)
    outer = [value("x", TensorProto.FLOAT, ["batch"])], [value("y", TensorProto.FLOAT, ["batch"])]
    return graph([loop], *outer, [weights("yes", np.array(True))])


def field(number: int, content: bytes) -> bytes:
    """A message's field, as protobuf writes it (whose own libraries refuse to nest deeply)."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content
