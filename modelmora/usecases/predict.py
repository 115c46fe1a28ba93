"""Tensors through a model that declares them: version, schema, the runners, one record left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from modelmora.domain.description import Description
from modelmora.domain.faults import SHOWN
from modelmora.domain.inference import Call, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok
from modelmora.domain.tensors import Tensor, TensorSpec
from modelmora.errors import ModelMoraError, SchemaMismatch
from modelmora.ports import Describer, Predicted, Predictor
from modelmora.usecases.admission import Admission

NAME_CHARS = 1_000
"""No model has an input with so long a name."""

Reading: TypeAlias = Callable[[Description], Awaitable[Mapping[str, Tensor]]]
"""Makes tensors of what came, where that takes knowing the declared ones; raises SchemaMismatch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The answer: which version served, its outputs, and what it declares of them."""

    model: ModelSpec
    outputs: Mapping[str, Tensor]
    declared: Mapping[str, TensorSpec]
    timings: Timings
    total_ms: float


class Predict:
    """The use case behind every face that takes tensors."""

    def __init__(self, admission: Admission, predictor: Predictor, describer: Describer) -> None:
        self.admission = admission
        self._predictor = predictor
        self._describer = describer

    async def __call__(
        self, ref: str | None, inputs: Mapping[str, Tensor] | Reading, *, outputs: Sequence[str] = (), call: Call
    ) -> Predictions:
        """The named outputs (none: all).

        Raises ModelNotFound, VersionNotFound, CapabilityMissing (no tensor model), SchemaMismatch (with all that is
        wrong with the inputs, or the names that are no outputs), and what the runners raise.
        """
        started = self.admission.clock()
        model = self.admission.serving(ref, "predict")
        try:
            description, predicted = await self._predict(model, inputs, outputs, call)
        except ModelMoraError as error:
            self.admission.record(call, model, "predict", [Failed(error)], self._since(started))
            raise
        total_ms = self._since(started)
        self.admission.record(call, model, "predict", [Ok(predicted)] * _rows(description, predicted), total_ms)
        return Predictions(
            model=model,
            outputs=predicted.outputs,
            declared={spec.name: spec for spec in description.outputs},
            timings=predicted.timings,
            total_ms=total_ms,
        )

    async def _predict(
        self, model: ModelSpec, inputs: Mapping[str, Tensor] | Reading, outputs: Sequence[str], call: Call
    ) -> tuple[Description, Predicted]:
        description = await self._describer.describe(model, deadline=call.deadline)
        given = inputs if isinstance(inputs, Mapping) else await inputs(description)
        _check_names(given, description)
        return description, await self._predictor.predict(model, given, outputs=outputs, call=call)

    def _since(self, started: float) -> float:
        return (self.admission.clock() - started) * 1e3


def _check_names(given: Mapping[str, Tensor], description: Description) -> None:
    """What has little to do with the model is refused before anybody looks which of its names each may have meant."""
    declared = len(description.inputs)
    if len(given) > declared + SHOWN:
        raise SchemaMismatch(
            f"{len(given)} inputs; {description.model} takes {declared}",
            field="inputs",
            found=f"{len(given)} inputs",
            expected=f"at most {declared}",
        )
    for name in given:
        if len(name) > NAME_CHARS:
            shown = name[:80]
            raise SchemaMismatch(
                f"an input's name has {len(name)} characters", field="inputs", found=shown, expected="a declared name"
            )


def _rows(description: Description, predicted: Predicted) -> int:
    """Of a batch; 1 where the model takes none."""
    first = next(iter(predicted.outputs.values()), None)
    return first.shape[0] if description.batches and first is not None and first.shape else 1
