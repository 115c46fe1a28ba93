"""What a SavedModel says of itself, read without TensorFlow: signatures, and what its program would do to files.

A SavedModel is a program in TensorFlow's operations. Those that read or write files, run Python, or speak to other
processes are refused, wherever they stand; what is left computes. Field numbers: saved_model.proto, meta_graph.proto,
graph.proto, function.proto of TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import Axis, DType, TensorSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners.inputs.schema import NO_SHAPE, Own
from runners.networks.tensors.protobuf_fields import integer, mapped, messages, text, texts

FILE = "saved_model.pb"
USUAL_SIGNATURE = "serving_default"

_DTYPES: dict[int, DType] = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "bytes",
    9: "int64",
    10: "bool",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}

_REFUSED = re.compile(
    r"File(?!name)|PyFunc|Dataset|Iterator|Reader|Summary|Rpc|Remote|Collective|Nccl|TPU|DTensor|LMDB|Sql|Snapshot(Chunk|Nested)"
    r"|^_?(Host)?(Send|Recv)|^_?Xla(Custom|Host|Send|Recv)|^Debug|^DumpTensor|^Print|^ImmutableConst|^(En|De)codeProto"
    r"|^LoadAndRemapMatrix|^GenerateVocabRemapping|^Skipgram|^FixedUnigramCandidateSampler|^RecordInput|Saver$"
)
"""Operations with a file, an address or foreign code behind them, by TensorFlow 2.21's list of 1908. What TensorFlow
does not know it does not load."""

_SAVING = re.compile(r"Save|Restore|Checkpoint|^Sharded")
_SAVER = re.compile(r"__inference__traced_(save|restore)_\d+")
"""Every SavedModel holds two functions that would save and restore it. Loading does not use them: it reads the
variables itself. They stay, as long as nothing can call them."""


def read_saved_model(spec: ModelSpec, path: Path) -> tuple[Own, str]:
    """The inputs and outputs of the signature that `config.signature` names, and its name.

    Raises ModelLoadFailed (cannot be read, no such signature, does more than compute), ArtifactCorrupt (damaged).
    """
    try:
        model = mapped(path)
        graph = _only_graph(spec, model)
        refused = sorted(set(_refused(graph)))
        signatures = {text(entry, 1): value for entry in messages(graph, 5) for value in messages(entry, 2)}
        name = _signature(spec, sorted(name for name in signatures if not name.startswith("__saved_model")))
        own = _own(signatures[name])
    except OSError as cause:
        raise ModelLoadFailed(f"{spec.key}: {path.name} cannot be read: {cause.strerror}") from cause
    except ValueError as cause:
        raise ArtifactCorrupt(f"{spec.key}: {path.name} is damaged or no SavedModel: {cause}") from cause
    if refused:
        raise ModelLoadFailed(
            f"{spec.key}: its graph has operations that do more than compute: {', '.join(refused[:20])}; "
            "save it without them",
            field="source",
            found=", ".join(refused[:20]),
            expected="operations that touch no files, no network and no Python",
        )
    return own, name


def _only_graph(spec: ModelSpec, model: memoryview) -> memoryview:
    """The one that TensorFlow 2 saves; TensorFlow 1's are run by other rules, which nothing here looks after."""
    graphs = [*messages(model, 2)]
    if not graphs:
        raise ValueError("it holds no graph")
    if len(graphs) > 1 or not any(True for _ in messages(graphs[0], 7)):
        said = "it was saved by TensorFlow 1; load it and save it again with TensorFlow 2 (tf.saved_model.save)"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="source")
    return graphs[0]


def _signature(spec: ModelSpec, there: list[str]) -> str:
    wanted = spec.config.get("signature", USUAL_SIGNATURE)
    if wanted in there:
        return str(wanted)
    if len(there) == 1 and "signature" not in spec.config:
        return there[0]
    known = ", ".join(there) or "none: save it with signatures="
    said = f"config.signature: the model has no signature {wanted!r}; it has {known}"
    raise ModelLoadFailed(f"{spec.key}: {said}", field="config.signature", found=str(wanted), expected=known)


def _own(signature: memoryview) -> Own:
    own = Own()
    for spec, why in _tensors(signature, 1):
        own = own.with_input(spec, why)
    for spec, why in _tensors(signature, 2):
        own = own.with_output(spec, why)
    if not own.outputs:
        raise ValueError("its signature has no outputs")
    return own


def _tensors(signature: memoryview, number: int) -> list[tuple[TensorSpec, str]]:
    """By name: a map has no order."""
    entries = {text(entry, 1): info for entry in messages(signature, number) for info in messages(entry, 2)}
    return [_tensor(name, entries[name]) for name in sorted(entries)]


def _tensor(name: str, info: memoryview) -> tuple[TensorSpec, str]:
    code, shapes = integer(info, 2) or 0, [*messages(info, 3)]
    dtype = _DTYPES.get(code)
    axes = tuple(_axis(dim) for shape in shapes for dim in messages(shape, 2))
    spec = TensorSpec(name=name, dtype=dtype or "float32", shape=axes)
    if dtype is None:
        return spec, f"its elements are of TensorFlow's type {code}, or it is no dense tensor, which is not served"
    return spec, NO_SHAPE if not shapes or any(integer(shape, 3) for shape in shapes) else ""


def _axis(dim: memoryview) -> Axis:
    size = integer(dim, 1) or 0
    return text(dim, 2) or None if size < 0 else size


def _refused(graph: memoryview) -> Iterator[str]:
    """The operations that are not served, in the graph and in every function."""
    calling = b"".join(_calling(graph))
    for node in (one for part in messages(graph, 2) for one in messages(part, 1)):
        yield from _wrong(text(node, 2), saver=False)
    for name, function in _functions(graph):
        saver = _SAVER.fullmatch(name) is not None and name.encode() not in calling and not _stands_for(function)
        for node in messages(function, 3):
            yield from _wrong(text(node, 2), saver=saver)


def _wrong(operation: str, *, saver: bool) -> Iterator[str]:
    if _REFUSED.search(operation) or (_SAVING.search(operation) and not saver):
        yield operation


def _functions(graph: memoryview) -> Iterator[tuple[str, memoryview]]:
    for part in messages(graph, 2):
        for library in messages(part, 2):
            for function in messages(library, 1):
                # A signature that is there twice is one: protobuf puts them together, the last name stands.
                names = [name for signature in messages(function, 1) for name in texts(signature, 1)]
                yield names[-1] if names else "", function


def _stands_for(function: memoryview) -> bool:
    """Whether an attribute offers it in the place of others: TensorFlow's optimiser exchanges functions of one
    `api_implements` where they are called (grappler/optimizers/implementation_selector.cc)."""
    names = [text(entry, 1) for entry in messages(function, 5)]
    return any("implements" in name or not name.startswith("_") for name in names)


def _calling(graph: memoryview) -> Iterator[bytes]:
    """What could call a function when the model is loaded or run: the objects, other functions and what their
    attributes and their arguments' name, gradients."""
    yield from map(bytes, messages(graph, 7))
    for library in (one for part in messages(graph, 2) for one in messages(part, 2)):
        for function in messages(library, 1):
            yield from (bytes(one) for number in (3, 5, 7) for one in messages(function, number))
            yield from (bytes(one) for signature in messages(function, 1) for one in messages(signature, 4))
        yield from (bytes(one) for number in (2, 3) for one in messages(library, number))
