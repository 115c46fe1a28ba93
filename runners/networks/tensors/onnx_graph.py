"""What an ONNX file says of itself, read without its weights: inputs, outputs, and the other files it names.

Field numbers: onnx/onnx.proto of the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import Axis, DType, TensorSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners.inputs.schema import NO_SHAPE, Own
from runners.networks.tensors.protobuf_fields import integer, mapped, messages, text

_DTYPES: dict[int, DType] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "bytes",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_OTHERS = {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"}
"""Fields of TypeProto that stand where `tensor_type` (1) would."""

_DEEPEST = 64
"""Graphs in graphs (If, Loop, Scan). Deeper ones are no network but an attack on the reader."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """`own` are the graph's inputs and outputs; `weights` the files beside the model that hold its weights."""

    own: Own
    weights: tuple[Path, ...]


def read_onnx(spec: ModelSpec, path: Path) -> OnnxFile:
    """Raises ModelLoadFailed (cannot be read), ArtifactCorrupt (damaged, or names files outside its folder)."""
    try:
        model = mapped(path)
        locations = sorted(set(_locations(model)))
        own = _own(model)
    except OSError as cause:
        raise ModelLoadFailed(f"{spec.key}: {path.name} cannot be read: {cause.strerror}") from cause
    except ValueError as cause:
        raise ArtifactCorrupt(f"{spec.key}: {path.name} is damaged or no ONNX model: {cause}") from cause
    return OnnxFile(own, tuple(_beside(spec, path, location) for location in locations))


def _own(model: memoryview) -> Own:
    graphs = [*messages(model, 7)]
    weights = {text(one, 8) for graph in graphs for one in messages(graph, 5)}
    overridable = (integer(model, 1) or 0) >= 4  # before IR version 4 every weight had to be listed as an input
    own = Own()
    for info in (one for graph in graphs for one in messages(graph, 11)):
        if overridable or text(info, 1) not in weights:
            own = own.with_input(*_tensor(info, optional=text(info, 1) in weights))
    for info in (one for graph in graphs for one in messages(graph, 12)):
        own = own.with_output(*_tensor(info))
    if not own.outputs:
        raise ValueError("it has no graph with outputs")
    return own


def _tensor(info: memoryview, *, optional: bool = False) -> tuple[TensorSpec, str]:
    """A ValueInfoProto, and why it cannot be served as it is (empty: it can)."""
    name = text(info, 1)
    for type_ in messages(info, 2):
        for tensor in messages(type_, 1):
            code, shapes = integer(tensor, 1) or 0, [*messages(tensor, 2)]
            dtype = _DTYPES.get(code)
            axes = tuple(_axis(dim) for shape in shapes for dim in messages(shape, 1))
            spec = TensorSpec(name=name, dtype=dtype or "float32", shape=axes, optional=optional, text=dtype == "bytes")
            if dtype is None:
                return spec, f"its elements are of ONNX's type {code}, which is not served"
            return spec, "" if shapes else NO_SHAPE
        for number, what in _OTHERS.items():
            if any(True for _ in messages(type_, number)):
                return TensorSpec(name=name, dtype="float32", shape=()), f"it is {what}; only tensors are served"
    return TensorSpec(name=name, dtype="float32", shape=()), "its type is not in the file"


def _axis(dim: memoryview) -> Axis:
    size, name = integer(dim, 1), text(dim, 2)
    return size if size is not None and size >= 0 else name or None


def _locations(model: memoryview) -> Iterator[str]:
    for graph in messages(model, 7):
        yield from _in_graph(graph, 0)
    for function in messages(model, 25):
        yield from _in_nodes(messages(function, 7), 0)
        yield from _in_attributes(messages(function, 11), 0)


def _in_graph(graph: memoryview, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"graphs stand in each other more than {_DEEPEST} deep")
    for tensor in messages(graph, 5):
        yield from _of_tensor(tensor)
    for sparse in messages(graph, 15):
        yield from _of_sparse(sparse)
    yield from _in_nodes(messages(graph, 1), depth)


def _in_nodes(nodes: Iterator[memoryview], depth: int) -> Iterator[str]:
    for node in nodes:
        yield from _in_attributes(messages(node, 5), depth)


def _in_attributes(attributes: Iterator[memoryview], depth: int) -> Iterator[str]:
    for attribute in attributes:
        for number in (5, 10):
            for tensor in messages(attribute, number):
                yield from _of_tensor(tensor)
        for number in (22, 23):
            for sparse in messages(attribute, number):
                yield from _of_sparse(sparse)
        for number in (6, 11):
            for graph in messages(attribute, number):
                yield from _in_graph(graph, depth + 1)


def _of_sparse(sparse: memoryview) -> Iterator[str]:
    for number in (1, 2):
        for tensor in messages(sparse, number):
            yield from _of_tensor(tensor)


def _of_tensor(tensor: memoryview) -> Iterator[str]:
    return (text(entry, 2) for entry in messages(tensor, 13) if text(entry, 1) == "location")


def _beside(spec: ModelSpec, path: Path, location: str) -> Path:
    """A path that leaves the folder would read whatever the server may read, and one in asterisks its memory:
    onnxruntime keeps them for weights that lie at an address (`*/_ORT_MEM_ADDR_/*`)."""
    inside = PurePosixPath(location)
    leaves = inside.is_absolute() or ".." in inside.parts or PureWindowsPath(location).drive
    if leaves or not inside.parts or any(letter in location for letter in "\\\0*"):
        raise ArtifactCorrupt(
            f"{spec.key}: {path.name} has weights in {location[:80]!r}, which is not inside the model's folder",
            field="source",
            found=location[:80],
            expected="a file in the model's folder",
        )
    return path.parent / inside
