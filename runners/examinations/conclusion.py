"""What was found of each form of a model, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelmora.domain.models import ModelSpec, Task
from runners.examinations.likeness import likeness
from runners.examinations.trial import Taken
from runners.forms import GATE, REFERENCE, Form, Likeness, Measured, form_of, verdict
from runners.provider import Loaded


@dataclass(slots=True)
class Findings:
    """What was found of each form so far; `far` are those whose export was not near enough, with how near it was;
    `passing`: one failed for what may be otherwise in a moment."""

    taken: dict[Form, Taken] = field(default_factory=dict)
    far: dict[Form, Mapping[Task, Likeness]] = field(default_factory=dict)
    failed: dict[Form, str] = field(default_factory=dict)
    passing: bool = False

    def forget(self, form: Form) -> None:
        """Its export does not count."""
        self.far.pop(form, None)
        self.failed.pop(form, None)

    def measured(self, form: Form) -> Measured:
        """A form that was looked at, beside the reference."""
        if form in self.failed:
            return Measured(form=form, likeness={}, ms={}, failed=self.failed[form])
        if form in self.far:
            return Measured(form=form, likeness=self.far[form], ms={})
        reference, own = self.taken[REFERENCE], self.taken[form]
        near = {task: likeness(rows, reference.vectors[task]) for task, rows in own.vectors.items()}
        return Measured(form=form, likeness=near, ms=own.ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """All that was measured; the form that the model has as long as nothing is known, and the one that is best.

    Where it is not `lasting`, a form was not measured that may be another time.
    """

    measured: Sequence[Measured]
    usual: Form
    auto: Form
    lasting: bool = True

    def report(self, spec: ModelSpec, loaded: Loaded) -> dict[str, Any]:
        """JSON-ready; `passes` is of the model as it is loaded."""
        serving = form_of(loaded)
        return {
            "model": spec.name,
            "version": spec.version,
            "device": loaded.device,
            **serving.to_dict(),
            "declared": {"engine": spec.engine, "precision": spec.precision},
            "gate": GATE,
            "passes": any(one.passes for one in self.measured if one.form == serving),
            "auto": self.auto.to_dict(),
            "candidates": [self._row(one) for one in self.measured],
        }

    def _row(self, one: Measured) -> dict[str, Any]:
        usual = next(other for other in self.measured if other.form == self.usual)
        return {
            **one.form.to_dict(),
            "verdict": verdict(one, usual),
            "likeness": {task: asdict(near) for task, near in one.likeness.items()},
            "ms": dict(one.ms),
            "failed": one.failed,
        }
