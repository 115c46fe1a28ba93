"""A tensor model tried when it is loaded: whether it runs, gives what it declares, and keeps its rows apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed, OutOfMemory
from runners.inputs.preparing import shape_text
from runners.inputs.schema import Schema
from runners.networks.tensors.batches import Run, TensorBatches, first_line
from runners.networks.tensors.samples import rows_unlike, sample_of
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
log = structlog.get_logger(__name__)

TRY_S = 60.0
"""So long all samples may take. A graph that never ends must not keep the thread that loads models."""

AGAIN_S = 600.0
"""So long nobody tries a model again that did not come back: it would keep the others waiting each time."""

ROUNDING = 1e-3
"""Of the greatest value: libraries add up in another order for another number of rows. int8 whose scale is taken over
all rows (onnx's DynamicQuantizeLinear) differs by ten times that, what is normalised over them by more."""
ROUNDING_HALF = 1e-2


def tried(spec: ModelSpec, schema: Schema, run: Run) -> TensorBatches:
    """The model's forward, in batches only where rows together give what each gives alone.

    Raises ModelLoadFailed where it fails on a sample, gives what it does not declare, or does not come back; it is not
    to be tried again for its `retry_after_s`. Raises OutOfMemory.
    """
    return _in_time(spec, run, lambda: _tried(spec, schema, run))


def _tried(spec: ModelSpec, schema: Schema, run: Run) -> TensorBatches:
    why = _why_apart(schema, run) if schema.apart is not None else ""
    if schema.apart is not None and why:
        log.warning("model_not_batched", model=spec.name, version=spec.version, why=why)
        schema = schema.apart
    batches, sample = TensorBatches(schema, run), sample_of(schema)
    try:
        (given,) = batches.predict([sample])
    except (OutOfMemory, MemoryError):
        raise
    except Exception as cause:
        shapes = ", ".join(f"{name} {shape_text(one.shape)}" for name, one in sample.tensors.items())
        raise ModelLoadFailed(
            f"{spec.key}: it does not run on a sample of {shapes}: {first_line(cause)}; where only other sizes are "
            "possible, config.sample gives the sizes of named axes",
            field="config.sample",
            found=shapes,
        ) from cause
    _check(spec, schema, given)
    return batches


def _check(spec: ModelSpec, schema: Schema, given: Parcel) -> None:
    """Whether the outputs are as the schema has them."""
    for one in schema.outputs:
        array = given.tensors[one.name]
        found = "bytes" if array.dtype.kind in "OSU" else array.dtype.name
        fits = len(array.shape) == len(one.shape) and all(
            not isinstance(axis, int) or axis == size for axis, size in zip(one.shape, array.shape, strict=True)
        )
        if found != one.dtype or not fits:
            said = f"gives {found} {shape_text(array.shape)}, not {one.dtype} {shape_text(one.shape)}"
            raise ModelLoadFailed(f"{spec.key}: its output {one.name!r} {said}", field="config.outputs")


def _why_apart(schema: Schema, run: Run) -> str:
    """Why rows of several callers may not be computed together; empty where two that differ give together what each
    gives alone."""
    names, failed = [one.name for one in schema.outputs], ""
    for rows in rows_unlike(schema):
        try:
            alone = [run(row.tensors, names) for row in rows]
        except (OutOfMemory, MemoryError):
            raise
        except Exception as cause:
            failed = f"nothing can be told of its rows, since it does not run on a sample: {first_line(cause)}"
            continue
        return _difference(alone, rows, names, run)
    return failed


def _difference(
    alone: Sequence[Mapping[str, NDArray[Any]]], rows: Sequence[Parcel], names: Sequence[str], run: Run
) -> str:
    feeds = {name: np.concatenate([row.tensors[name] for row in rows]) for name in rows[0].tensors}
    try:
        together = run(feeds, names)
    except (OutOfMemory, MemoryError):
        raise
    except Exception as cause:
        return f"it does not run on {len(rows)} rows together: {first_line(cause)}"
    return next(filter(None, (_unlike(name, [one[name] for one in alone], together[name]) for name in names)), "")


def _unlike(name: str, alone: Sequence[NDArray[Any]], together: NDArray[Any]) -> str:
    """How an output of rows together differs from those of each alone."""
    shapes = {one.shape for one in alone}
    if shapes != {(1, *together.shape[1:])} or together.shape[:1] != (len(alone),):
        each = ", ".join(map(shape_text, sorted(shapes)))
        return f"{name!r} has the shape {each} of one row and {shape_text(together.shape)} of {len(alone)}"
    apart = np.concatenate(alone)
    if apart.dtype.kind != "f":
        same = np.array_equal(apart, together)
        return "" if same else f"{name!r} of rows together is not that of each alone"
    limit = ROUNDING_HALF if apart.dtype == np.float16 else ROUNDING
    wide, other = apart.astype(np.float64), together.astype(np.float64)
    greatest = max(float(np.abs(one[np.isfinite(one)]).max(initial=0.0)) for one in (wide, other))
    if np.isclose(wide, other, rtol=0.0, atol=limit * greatest, equal_nan=True).all():
        return ""
    apart_by = np.nanmax(np.abs(np.nan_to_num(wide) - np.nan_to_num(other)))
    return f"{name!r} of rows together differs from that of each alone by up to {apart_by:.3g}"


def _in_time(spec: ModelSpec, run: Run, work: Callable[[], T]) -> T:
    """In a thread that is left behind when it does not come back, one a model at most; raises what the work raises."""
    name, future = f"sample of {spec.key}", Future[T]()
    if any(thread.name == name for thread in threading.enumerate()):
        said = "a sample that it was given before has not come back yet; it ends with this worker"
        raise ModelLoadFailed(f"{spec.key}: {said}", retry_after_s=AGAIN_S)

    def compute() -> None:
        try:
            future.set_result(work())
        except BaseException as cause:
            future.set_exception(cause)

    threading.Thread(target=compute, name=name, daemon=True).start()
    try:
        return future.result(TRY_S)
    except TimeoutError as cause:
        if future.done():  # the work's own
            raise
        run.stop()
        log.error("sample_hung", model=spec.name, version=spec.version, ms=TRY_S * 1e3)
        said = f"it has not come back from a sample for {TRY_S:.0f} s"
        raise ModelLoadFailed(f"{spec.key}: {said}", retry_after_s=AGAIN_S) from cause
