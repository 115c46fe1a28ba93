"""Which number formats torch computes in: what a device can do, and what it does fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed

Concrete = Literal["fp32", "bf16", "fp16", "int8"]
BYTES: Mapping[Concrete, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}

_FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


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
