"""A tensor model's schema: what its file says, what `config` declares, compared and put together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modelmora.domain.description import Description
from modelmora.domain.features import Pictures, Prepared
from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import Axis, TensorSpec
from modelmora.errors import Fault
from runners.inputs.declared import Declared, DeclaredTensor, fault, read_declared, refused
from runners.inputs.preparing import Preparing, shape_text

DEFAULT_MAX_BATCH = 16
DEFAULT_SAMPLE = 32
"""The size of an axis of any size in a sample, where `config.sample` does not say."""

NO_SHAPE = "its shape is not in the file"
BATCH = "batch"
_BATCH_NAMES = frozenset({BATCH, "batch_size", "batchsize", "batch_dim", "bs", "b", "n"})
"""What exporters call the first axis, in any case, where they name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a model's file says. `unclear` tells of a name why it cannot be served as it stands there."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    unclear: Mapping[str, str] = field(default_factory=dict)

    def with_input(self, spec: TensorSpec, why: str = "") -> Own:
        """One more; `why` it is unclear."""
        return replace(self, inputs=(*self.inputs, spec), unclear=self._told(spec, why))

    def with_output(self, spec: TensorSpec, why: str = "") -> Own:
        """One more; `why` it is unclear."""
        return replace(self, outputs=(*self.outputs, spec), unclear=self._told(spec, why))

    def _told(self, spec: TensorSpec, why: str) -> Mapping[str, str]:
        return {**self.unclear, spec.name: why} if why else self.unclear


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The model's own `inputs` and `outputs`; `taken` is what callers send, of which `prepared` makes some inputs.

    `sample` are the sizes of axes of any size, in an input for warm-up. Of a model that takes batches as far as its
    files say, `apart` is what it is should its rows turn out to hang together; a sample of that has `one_row` still.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    taken: tuple[TensorSpec, ...]
    prepared: Mapping[str, Prepared]
    batches: bool
    sample: Mapping[str, int]
    apart: Schema | None = None
    one_row: bool = False

    def description(self, spec: ModelSpec, *, proven: bool = False) -> Description:
        """The model as callers see it; `proven`: its rows were seen not to hang together."""
        return Description(
            model=spec.key,
            inputs=self.taken,
            outputs=self.outputs,
            batches=self.batches,
            proven=proven or not self.batches,
            prepared=tuple(self.prepared.values()),
            max_batch=(spec.batching.max_batch or DEFAULT_MAX_BATCH) if self.batches else 1,
        )

    def sample_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Of one of the model's inputs: one row, and a picture's sides."""
        sizes = [axis if isinstance(axis, int) else self._sample(axis or "") for axis in spec.shape]
        if self.one_row and sizes and not isinstance(spec.shape[0], int):
            sizes[0] = 1
        pictures = self.prepared.get(spec.name)
        if isinstance(pictures, Pictures) and pictures.how.height:
            at = 2 if pictures.layout == "NCHW" else 1
            sizes[at : at + 2] = pictures.how.height, pictures.how.width
        return tuple(sizes)

    def _sample(self, axis: str) -> int:
        return self.sample.get(axis, 1 if axis.lower() in _BATCH_NAMES else DEFAULT_SAMPLE)


def read_schema(spec: ModelSpec, own: Own, *, also: Sequence[str]) -> Schema:
    """`also` are the keys of `config` that the family reads itself. Raises ModelLoadFailed with every fault."""
    declared = read_declared(spec, also)
    faults = [
        *_faults("inputs", declared.inputs, own.inputs, own.unclear),
        *_faults("outputs", declared.outputs, own.outputs, own.unclear),
    ]
    if faults:
        raise refused(spec, faults)
    inputs, outputs = _merged(declared.inputs, own.inputs), _merged(declared.outputs, own.outputs)
    batches = _batches(inputs, outputs, strictly=bool(declared.inputs))
    if not batches:
        return _schema(spec, declared, inputs, outputs, batches=False)
    of_batch = (tuple(_of_batch(one) for one in specs) for specs in (inputs, outputs))
    whole = _schema(spec, declared, *of_batch, batches=True)
    return replace(whole, apart=replace(_schema(spec, declared, inputs, outputs, batches=False), one_row=True))


def _schema(
    spec: ModelSpec,
    declared: Declared,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    batches: bool,
) -> Schema:
    preparing = Preparing(inputs)
    for index, one in enumerate(declared.preprocess):
        preparing.add(index, one)
    taken = preparing.taken()
    faults = [*preparing.faults, *_sample_faults(declared.sample, inputs, batches=batches)]
    if faults:
        raise refused(spec, faults)
    return Schema(
        inputs=inputs,
        outputs=outputs,
        taken=taken,
        prepared=preparing.prepared,
        batches=batches,
        sample=declared.sample,
    )


def _faults(
    where: str, declared: Sequence[DeclaredTensor], own: Sequence[TensorSpec], unclear: Mapping[str, str]
) -> Iterator[Fault]:
    """How what is declared and what the model's file says differ; undeclared, the file must be clear."""
    there, names = {one.name: one for one in own}, [one.name for one in declared]
    for index, one in enumerate(declared):
        place = f"config.{where}[{index}]"
        if one.name not in there:
            near = difflib.get_close_matches(one.name, there, n=1)
            said = f"the model has no {one.name!r} among its {where}"
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield fault(f"{place}.name", said + hint, found=one.name, expected=", ".join(there))
        elif unclear.get(one.name, NO_SHAPE) == NO_SHAPE:
            yield from _differences(place, one, there[one.name], any_shape=one.name in unclear)
        else:
            yield fault(place, f"{one.name!r} cannot be served: {unclear[one.name]}")
    for one_own in own:
        if not declared and one_own.name in unclear:
            yield fault(f"config.{where}", f"{one_own.name!r}: {unclear[one_own.name]}; declare the {where} to serve")
        if declared and where == "inputs" and one_own.name not in names and not one_own.optional:
            yield fault(
                f"config.{where}", f"the model's input {one_own.name!r} is not declared", found=", ".join(names)
            )


def _differences(place: str, one: DeclaredTensor, own: TensorSpec, *, any_shape: bool) -> Iterator[Fault]:
    if one.dtype != own.dtype:
        yield fault(f"{place}.dtype", f"{one.dtype} is declared, the model has {own.dtype}", found=one.dtype)
    if one.optional and not own.optional:
        yield fault(f"{place}.optional", f"the model cannot do without {one.name!r}", found=True)
    if one.dtype in ("bool", "bytes") and one.range != (None, None):
        yield fault(f"{place}.range", f"{one.dtype} has no range; it is of numbers", found=one.dtype)
    if any_shape:
        return
    fits = len(one.shape) == len(own.shape) and all(map(_fits, one.shape, own.shape))
    if not fits:
        shapes = f"{shape_text(one.shape)} is declared, the model has {shape_text(own.shape)}"
        yield fault(f"{place}.shape", shapes, found=shape_text(one.shape), expected=shape_text(own.shape))
    elif one.labels and one.dtype != "bytes":
        last = _axis(one.shape[-1], own.shape[-1]) if one.shape else 1
        if isinstance(last, int) and last != len(one.labels):
            said = f"{len(one.labels)} labels are declared for an axis of {last}"
            yield fault(f"{place}.labels", said, found=len(one.labels), expected=str(last))


def _sample_faults(sample: Mapping[str, int], inputs: Sequence[TensorSpec], *, batches: bool) -> Iterator[Fault]:
    axes = sorted({axis for one in inputs for axis in one.shape if isinstance(axis, str)})
    for name in sample:
        if batches and name == BATCH:
            said = "a sample is one row of a batch; how many are computed together is batching.max_batch"
            there = ", ".join(axis for axis in axes if axis != BATCH) or "no axis"
            yield fault(f"config.sample.{BATCH}", said, found=sample[name], expected=there)
        elif name not in axes:
            near = difflib.get_close_matches(name, axes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = ", ".join(axes) or "none"
            yield fault(f"config.sample.{name}", f"no axis has this name{hint}", found=name, expected=there)


def _fits(declared: Axis, own: Axis) -> bool:
    """Any size may be declared to be a certain one, not the other way round."""
    return declared is None or not isinstance(own, int) or declared == own


def _axis(declared: Axis, own: Axis) -> Axis:
    return own if declared is None else declared


def _merged(declared: Sequence[DeclaredTensor], own: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    there = {one.name: one for one in own}
    return tuple(_both(one, there[one.name]) for one in declared) or tuple(own)


def _both(one: DeclaredTensor, own: TensorSpec) -> TensorSpec:
    low, high = one.range
    shape = tuple(map(_axis, one.shape, own.shape)) if len(own.shape) == len(one.shape) else tuple(one.shape)
    return replace(
        own, shape=shape, low=low, high=high, labels=tuple(one.labels), optional=own.optional and one.optional
    )


def _batches(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, strictly: bool) -> bool:
    """Whether rows of several callers may be computed together.

    Only where the first axis is said to be a batch: beside a sequence of any length others have no place. `strictly`
    that is the name alone; of what a file says also none at all, as the exporters of ONNX and TensorFlow leave it.
    """

    def batch(spec: TensorSpec) -> bool:
        first = spec.shape[0] if spec.shape else 1
        return first == BATCH if strictly else first is None or str(first).lower() in _BATCH_NAMES

    whole = bool(inputs) and all(map(batch, inputs))
    return whole and all(bool(one.shape) and not isinstance(one.shape[0], int) for one in outputs)


def _of_batch(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(BATCH, *spec.shape[1:]))
