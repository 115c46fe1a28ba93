"""Networks by OpenVINO: fp32, bf16 where the CPU has it, int8 by NNCF (its transformer recipe, the rest in bf16)."""

from __future__ import annotations

import queue
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.errors import ModelLoadFailed
from runners.engines.kinds import Format, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

_TYPES = {"uint8": "u8", "int32": "i32"}
_HINTS: Mapping[Format, str] = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


class OpenVino:
    """See `kinds.EngineLibrary`; a network is `NAME.xml` with `NAME.bin` beside it."""

    def version(self) -> str:
        return str(_openvino().get_version())

    def export(self, module: nn.Module, sample: NDArray[np.generic], file: Path) -> None:
        import torch  # noqa: PLC0415 - here and below: only exporting needs it

        ov = _openvino()
        example = torch.from_numpy(np.stack([sample, sample]))
        shape = ([-1, *sample.shape], getattr(ov.Type, _TYPES[sample.dtype.name]))
        with torch.no_grad():
            network = ov.convert_model(module, example_input=example, input=[shape])
        _save(network, file)

    def quantize(self, file: Path, samples: Samples, options: Mapping[str, object]) -> None:
        ov = _openvino()
        try:
            import nncf  # noqa: PLC0415
        except ImportError as cause:
            raise ModelLoadFailed(f"int8 by OpenVINO needs nncf: pip install 'modelmora[engines]' ({cause})") from cause
        network = nncf.quantize(
            ov.Core().read_model(file),
            nncf.Dataset([sample[None] for sample in samples]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
        )
        _save(network, file)

    def open(self, file: Path, format_: Format, *, threads: int) -> OpenVinoSession:
        """One stream on all threads: batches of several lanes take turns, a lone one has every core."""
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[format_],
            "INFERENCE_NUM_THREADS": threads or 0,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        core = _openvino().Core()
        return OpenVinoSession(core.compile_model(core.read_model(file), "CPU", settings))


class OpenVinoSession:
    """A compiled network and the requests that have run on it: each holds buffers, one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, stacked: NDArray[np.generic]) -> NDArray[np.float32]:
        request = self._request()
        try:
            request.infer({0: stacked}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)
        finally:
            self._idle.put(request)

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get()
        self._compiled = None

    def _request(self) -> Any:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._compiled.create_infer_request()


def _openvino() -> Any:
    # It and nncf report their use to their makers, who take a user who never answered for one who agreed. Without this
    # package neither does.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how a package is made absent
    try:
        import openvino  # noqa: PLC0415 - an extra; half a second
    except ImportError as cause:
        raise ModelLoadFailed(
            f"engine openvino is not installed: pip install 'modelmora[engines]' ({cause})"
        ) from cause
    return openvino


def _save(network: Any, file: Path) -> None:
    """Beside the file first: the network may still be read from it."""
    beside = file.with_name(f"{file.stem}.new.xml")
    _openvino().save_model(network, beside, compress_to_fp16=False)
    del network
    beside.with_suffix(".bin").replace(file.with_suffix(".bin"))
    beside.replace(file)


LIBRARY = OpenVino()
