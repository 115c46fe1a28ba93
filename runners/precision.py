"""Which number format a model computes in: what a device can do, what it does fast, what was measured to be good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed

Concrete = Literal["fp32", "bf16", "fp16"]
BYTES: Mapping[Concrete, int] = {"fp32": 4, "bf16": 2, "fp16": 2}

GATE = 0.999
"""The smallest cosine to fp32, over the samples of either tower, that a narrower format may have."""

WORTHWHILE = 0.9
"""A narrower format must take at most this share of fp32's time: its rounding is not worth less."""

_FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


@runtime_checkable
class Choosable(Protocol):
    """What a provider has besides, when its models can compute in several formats."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        """The formats worth measuring on the device, fp32 among them."""
        ...

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        """The files that make the model what it is, the weights first; raises ModelLoadFailed without them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How near the vectors of one tower are to fp32's.

    `lowest` and `mean` cosine over the gate's samples; `overlap`: the mean share of each sample's ten nearest
    neighbours, among all, that stay; `difference`: the largest of any component.
    """

    lowest: float
    mean: float
    overlap: float
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate as it was measured; `ms` of one batch of each tower. `failed` says why it cannot run at all."""

    precision: Concrete
    likeness: Mapping[Task, Likeness]
    ms: Mapping[Task, float]
    failed: str | None = None

    @property
    def passes(self) -> bool:
        """Whether both towers pass the gate."""
        likenesses = self.likeness.values()
        return self.failed is None and bool(likenesses) and min(one.lowest for one in likenesses) >= GATE

    @property
    def total_ms(self) -> float:
        return sum(self.ms.values())


def choose(candidates: Iterable[Measured]) -> Concrete:
    """The fastest that passes the gate; fp32 unless a narrower one saves enough. fp32 must be among them."""
    passing = sorted((one for one in candidates if one.passes), key=lambda one: one.total_ms)
    full = next(one for one in passing if one.precision == "fp32")
    worthwhile = (one.precision for one in passing if one.total_ms <= WORTHWHILE * full.total_ms)
    return next(worthwhile, "fp32")


def verdict(one: Measured, fp32: Measured) -> Verdict:
    """What is to be said of a candidate in one word or two."""
    if one.precision == "fp32":
        return "reference"
    if one.failed is not None:
        return "failed"
    if not one.passes:
        return "below the gate"
    return "passes" if one.total_ms <= WORTHWHILE * fp32.total_ms else "no faster"


Verdict: TypeAlias = Literal["reference", "passes", "no faster", "below the gate", "failed"]


def permitted(spec: ModelSpec, device: str) -> Concrete:
    """The format a model is loaded in: as declared, and fp32 for an `auto` of which nothing is known.

    Raises ModelLoadFailed naming what the device can do.
    """
    can = ", ".join(supported(device))
    if spec.precision == "int8":
        said = f"precision 'int8' takes engine openvino or onnxruntime; torch can do {can} on {device}"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="precision", found="int8", expected=can)
    wanted: Concrete = "fp32" if spec.precision == "auto" else spec.precision
    if wanted not in supported(device):
        said = f"{device} cannot compute in {wanted}; it can do {can}, or auto"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="precision", found=wanted, expected=can)
    return wanted


def supported(device: str) -> tuple[Concrete, ...]:
    """What runs on the device at all, however slowly."""
    import torch  # noqa: PLC0415 - here and below: only loading needs torch, which takes seconds to import

    match device.partition(":")[0]:
        case "cuda":
            return ("fp32", "bf16", "fp16") if _ampere(device) else ("fp32", "fp16")
        case "mps":
            return ("fp32", "bf16", "fp16") if torch.backends.mps.is_macos_or_newer(14, 0) else ("fp32", "fp16")
        case _:
            return ("fp32", "bf16", "fp16")


def native(device: str) -> tuple[Concrete, ...]:
    """What the device has circuits for: the formats that may be faster than fp32, and fp32."""
    match device.partition(":")[0]:
        case "cuda":
            return supported(device)
        case "mps":
            return ("fp32", "fp16")
        case _:
            return ("fp32", "bf16") if any(capabilities().get(name) for name in _FAST_BF16) else ("fp32",)


def hardware(device: str) -> str:
    """What a measurement on the device stands for: the CPU's or GPU's kind, and the version of torch."""
    import platform  # noqa: PLC0415 - only needed here

    import torch  # noqa: PLC0415

    match device.partition(":")[0]:
        case "cuda":
            what = f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
        case "mps":
            what = f"{platform.processor()} {platform.mac_ver()[0]}"
        case _:
            what = f"{platform.machine()} {' '.join(sorted(name for name, has in capabilities().items() if has))}"
    return f"{device.partition(':')[0]} {what} torch {torch.__version__}"


def capabilities() -> Mapping[str, object]:
    """The CPU's instruction sets by torch's names; nothing where torch is too old to tell."""
    import torch  # noqa: PLC0415

    told = getattr(torch.cpu, "get_capabilities", None)
    return told() if told is not None else {}


def _ampere(device: str) -> bool:
    """Whether a GPU is of the generation that has bf16 (compute capability 8.0)."""
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_capability(device) >= (8, 0)
