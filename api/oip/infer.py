"""An inference of the protocol as a call of the use case that its model is for: vectors, or tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from api.oip.asked import LARGE, Asked, Inferred, Raw
from api.oip.elements import elements_within
from api.oip.metadata import EMBEDDING, IMAGE, TEXT
from api.oip.raw import only_input
from api.threads import here
from modelmora.domain.capability import cannot
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Image, Text
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, LimitExceeded, ModelMoraError, SchemaMismatch
from modelmora.usecases.application import Application
from modelmora.usecases.embed import Embeddings


def model_of(application: Application, ref: str) -> ModelSpec:
    """Who is asked, before anybody looks at the tensors; raises CapabilityMissing where it takes none, ModelNotFound,
    VersionNotFound, ValidationFailed."""
    model = application.models.get(ref).spec
    if model.type not in ("embedding", "tensor"):
        raise cannot(model, "predict")
    return model


async def infer(application: Application, model: ModelSpec, asked: Asked, *, call: Call) -> Inferred:
    """Raises what the use cases raise, SchemaMismatch where the tensors are not the model's. All or nothing: the first
    item that failed fails the inference."""
    call = asked.bounds(call)
    if model.type == "embedding":
        return await _embed(application, model, asked, call)
    return await _predict(application, model, asked, call)


async def _predict(application: Application, model: ModelSpec, asked: Asked, call: Call) -> Inferred:
    given = asked.inputs

    async def reading(description: Description) -> Mapping[str, Tensor]:
        if not isinstance(given, Raw):
            return given
        return await here(partial(only_input, given, description), size=len(given.data), most=LARGE)

    answer = await application.predict(model.key, reading, outputs=asked.outputs, call=call)
    names = asked.outputs or tuple(answer.outputs)
    return Inferred(
        model=answer.model,
        outputs={name: answer.outputs[name] for name in names},
        timings=answer.timings,
        total_ms=answer.total_ms,
    )


async def _embed(application: Application, model: ModelSpec, asked: Asked, call: Call) -> Inferred:
    wrong = next((name for name in asked.outputs if name != EMBEDDING), None)
    if wrong is not None:
        raise SchemaMismatch(
            f"{model.key} has no output {wrong[:80]!r}", field="outputs", found=wrong[:80], expected=EMBEDDING
        )
    name, items = _items(model, asked.inputs, application.limits.items)
    answer = await application.embed(model.key, items, call=call)
    return Inferred(
        model=answer.model,
        outputs={EMBEDDING: _stacked(answer, name)},
        timings=answer.timings,
        total_ms=answer.total_ms,
    )


def _items(model: ModelSpec, given: Mapping[str, Tensor] | Raw, limit: int) -> tuple[str, list[Outcome[Content]]]:
    """The name of the one input and what is in it."""
    if isinstance(given, Raw):
        return IMAGE, [Ok(Image(given.data))]
    if len(given) != 1 or not given.keys() <= {IMAGE, TEXT}:
        raise SchemaMismatch(
            f"{model.key} takes pictures or texts, in one input of that name",
            field="inputs",
            found=", ".join(name[:80] for name in given)[:200] or "none",
            expected=f"{IMAGE} or {TEXT}",
        )
    ((name, tensor),) = given.items()
    _check_column(name, tensor, limit)
    elements = elements_within(tensor, name)
    return name, [Ok(Image(one)) for one in elements] if name == IMAGE else [_text(one) for one in elements]


def _check_column(name: str, tensor: Tensor, limit: int) -> None:
    """Raises SchemaMismatch, LimitExceeded: before anything is made of so many elements."""
    if tensor.dtype != "bytes" or len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise SchemaMismatch(
            f"{name} is no list of BYTES",
            field=name,
            found=f"{tensor.dtype} {list(tensor.shape)}",
            expected="bytes [n] or [n, 1]",
        )
    if tensor.elements > limit:
        raise LimitExceeded(
            f"{tensor.elements} items in one request",
            field=name,
            found=str(tensor.elements),
            expected=f"at most {limit}",
        )


def _text(element: bytes) -> Outcome[Content]:
    try:
        return Ok(Text(element.decode()))
    except UnicodeDecodeError as cause:
        return Failed(InvalidInput(f"the text is no UTF-8: {cause}", field=TEXT, expected="UTF-8"))


def _stacked(answer: Embeddings, name: str) -> Tensor:
    """The vectors, float32 (n, d)."""
    failed = [(index, outcome.error) for index, outcome in enumerate(answer.outcomes) if isinstance(outcome, Failed)]
    if failed:
        raise _first(failed, len(answer.outcomes), name)
    vectors = [outcome.value.vector for outcome in answer.outcomes if isinstance(outcome, Ok)]
    return Tensor(
        dtype="float32",
        shape=(len(vectors), vectors[0].dimension),
        data=b"".join(vector.data for vector in vectors),
    )


def _first(failed: list[tuple[int, ModelMoraError]], count: int, name: str) -> ModelMoraError:
    """The first failure, naming its place, and every other one among its faults."""
    index, first = failed[0]
    others = f" ({len(failed)} of {count} failed)" if len(failed) > 1 else ""
    faults = [replace(error.as_fault(place), field=f"{name}[{place}]") for place, error in failed]
    return type(first)(
        f"{name}[{index}]: {first.detail}{others}",
        field=f"{name}[{index}]",
        found=first.found,
        expected=first.expected,
        retry_after_s=first.retry_after_s,
        faults=faults if len(failed) > 1 else (),
    )
