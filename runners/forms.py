"""The forms a model can run in, each a library and a number format; what is measured of one, and which is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, cast, runtime_checkable

from modelmora.domain.models import ModelSpec, Task
from runners.engines.kinds import FORMATS, Kind, installed
from runners.engines.towers import Exportable
from runners.precision import BYTES, Concrete, native
from runners.provider import Loaded

Library: TypeAlias = Literal["torch"] | Kind

GATE = 0.999
"""The smallest cosine to torch's fp32, over the samples of any tower, that another form may have."""

WORTHWHILE = 0.9
"""Another form must take at most this share of the usual one's time: its rounding is not worth less."""


@dataclass(frozen=True, slots=True)
class Form:
    """Who computes, and in what."""

    engine: Library = "torch"
    precision: Concrete = "fp32"

    def __str__(self) -> str:
        return self.precision if self.engine == "torch" else f"{self.engine} {self.precision}"

    def put_into(self, spec: ModelSpec) -> ModelSpec:
        """The model, declared to run in this form."""
        return replace(spec, engine=self.engine, precision=self.precision)

    def to_dict(self) -> dict[str, str]:
        """For reports and files."""
        return {"engine": self.engine, "precision": self.precision}

    @property
    def bytes_per_weight(self) -> int:
        """As `weight_bytes` counts them: exported networks keep bf16 weights as fp32 in their files."""
        return 4 if self.engine != "torch" and self.precision != "int8" else BYTES[self.precision]


PREFERRED: tuple[Kind, ...] = ("openvino", "onnxruntime")
"""Of those that are installed `auto` looks at the first: OpenVINO computes in bf16 as well."""

REFERENCE = Form("torch", "fp32")


@runtime_checkable
class Choosable(Protocol):
    """What a provider has besides, when its models can compute in several forms."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        """The formats of torch worth measuring on the device, fp32 among them."""
        ...

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """The files that make the model what it is, the weights first; raises ModelLoadFailed without them."""
        ...


@runtime_checkable
class _Exported(Protocol):
    """A loaded model that another library than torch runs."""

    engine: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How near the vectors of one tower are to those of torch in fp32.

    `lowest` and `mean` cosine over the gate's samples; `overlap`: the mean share of each sample's ten nearest
    neighbours, among all, that stay; `difference`: the largest of any component.
    """

    lowest: float
    mean: float
    overlap: float
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate as it was measured; `ms` of one batch of each tower. `failed` says why it cannot run at all.

    One whose likeness was known to be below the gate has no times.
    """

    form: Form
    likeness: Mapping[Task, Likeness]
    ms: Mapping[Task, float]
    failed: str | None = None

    @property
    def passes(self) -> bool:
        """Whether all towers pass the gate."""
        likenesses = self.likeness.values()
        return self.failed is None and bool(likenesses) and min(one.lowest for one in likenesses) >= GATE

    @property
    def total_ms(self) -> float:
        return sum(self.ms.values())


Verdict: TypeAlias = Literal["reference", "passes", "no faster", "below the gate", "failed"]


def form_of(loaded: Loaded) -> Form:
    """The form of a model that is loaded."""
    engine: Library = loaded.engine if isinstance(loaded, _Exported) else "torch"
    return Form(engine, cast(Concrete, loaded.precision))


def undecided(spec: ModelSpec) -> bool:
    """Whether the registry leaves something of the form to be found out."""
    return "auto" in (spec.engine, spec.precision)


def first(spec: ModelSpec, provider: object, device: str) -> Form:
    """The form of a model of which nothing was found out: torch and fp32 for what is `auto`.

    A precision that torch cannot compute in goes to the first engine that can, where there is one.
    """
    precision: Concrete = "fp32" if spec.precision == "auto" else spec.precision
    if spec.engine != "auto":
        return Form(spec.engine, precision)
    if precision != "int8":
        return Form("torch", precision)
    able = (one.engine for one in _exported(provider, device) if one.precision == precision)
    return Form(next(able, "torch"), precision)


def allowed(spec: ModelSpec, provider: object, device: str) -> tuple[Form, ...]:
    """The forms that the registry's row leaves to choose from on the device, of those worth measuring.

    A row for torch that leaves nothing open is taken for one whose precision is open, since such copies cost little.
    """
    if spec.engine not in ("auto", "torch") and spec.precision != "auto":
        return (first(spec, provider, device),)
    torch = [Form("torch", one) for one in provider.precisions(device)] if isinstance(provider, Choosable) else []
    match spec.engine:
        case "torch":
            return tuple(torch)
        case "auto":
            every = (*torch, *_of_best(provider, device))
            if spec.precision != "auto":
                return tuple(one for one in every if one.precision == spec.precision)
            slow = _slow(every)
            return tuple(one for one in every if one not in slow)
        case _:
            return tuple(one for one in _exported(provider, device) if one.engine == spec.engine)


def choose(candidates: Sequence[Measured], usual: Form, among: Iterable[Form]) -> Form:
    """The fastest of those allowed that pass the gate; the usual one, which must have been measured, unless it fails
    the gate or another saves enough."""
    may = frozenset((*among, usual))
    passing = sorted((one for one in candidates if one.passes and one.form in may), key=lambda one: one.total_ms)
    known = next((one for one in passing if one.form == usual), None)
    limit = float("inf") if known is None else WORTHWHILE * known.total_ms
    return next((one.form for one in passing if one.total_ms <= limit), usual)


def verdict(one: Measured, usual: Measured) -> Verdict:
    """What is to be said of a candidate in one word or two."""
    if one.failed is not None:
        return "failed"
    if one.form == REFERENCE:
        return "reference"
    if not one.passes:
        return "below the gate"
    if one.form == usual.form or not usual.passes:
        return "passes"
    return "passes" if one.total_ms <= WORTHWHILE * usual.total_ms else "no faster"


def _exported(provider: object, device: str) -> tuple[Form, ...]:
    """By the engines that are installed, where the family can be exported; they run on the CPU."""
    if device != "cpu" or not isinstance(provider, Exportable):
        return ()
    slow = {"bf16"} - set(native(device))
    there = (kind for kind in PREFERRED if installed(kind))
    return tuple(Form(kind, format_) for kind in there for format_ in FORMATS[kind] if format_ not in slow)


def _of_best(provider: object, device: str) -> tuple[Form, ...]:
    """By the best engine there is: each export takes a minute or more."""
    exported = _exported(provider, device)
    return tuple(one for one in exported if one.engine == exported[0].engine)


def _slow(forms: Iterable[Form]) -> frozenset[Form]:
    """Exports in fp32 that the same engine's bf16 makes needless."""
    narrow = {one.engine for one in forms if one.precision == "bf16"}
    return frozenset(Form(engine, "fp32") for engine in narrow if engine != "torch")
