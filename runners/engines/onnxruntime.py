"""Networks by onnxruntime: fp32, and int8 by its static quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.errors import ModelLoadFailed
from runners.engines.kinds import Format, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

OPSET = 17


class OnnxRuntime:
    """See `kinds.EngineLibrary`; a network is one `NAME.onnx`."""

    def version(self) -> str:
        return str(_onnxruntime().__version__)

    def export(self, module: nn.Module, sample: NDArray[np.generic], file: Path) -> None:
        import torch  # noqa: PLC0415 - only exporting needs it

        example = torch.from_numpy(np.stack([sample, sample]))
        names: dict[str, Any] = {"input_names": ["input"], "output_names": ["rows"]}
        axes = {"input": {0: "batch"}, "rows": {0: "batch"}}
        # The exporter knows no fused attention: it takes the way that training takes.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            torch.onnx.export(
                module, (example,), str(file), dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names
            )

    def quantize(self, file: Path, samples: Samples, options: Mapping[str, object]) -> None:
        """`activations: int8 | uint8` (int8): with uint8 a vision transformer loses its way; the gate refuses it."""
        from onnxruntime import quantization  # noqa: PLC0415
        from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

        prepared, done = file.with_name(f"{file.stem}.prepared.onnx"), file.with_name(f"{file.stem}.new.onnx")
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        signed = options.get("activations", "int8") == "int8"
        types = quantization.QuantType
        quantization.quantize_static(
            str(prepared),
            str(done),
            _Reader(samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=types.QInt8 if signed else types.QUInt8,
            weight_type=types.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        prepared.unlink()
        done.replace(file)

    def open(self, file: Path, format_: Format, *, threads: int) -> OnnxRuntimeSession:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # its memory would not come back
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return OnnxRuntimeSession(runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]))


class OnnxRuntimeSession:
    """A session; its `run` may be called from several threads."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, stacked: NDArray[np.generic]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._session.run(None, {"input": stacked})[0]
        return rows

    def close(self) -> None:
        self._session = None


class _Reader:
    """The samples as onnxruntime's calibration asks for them."""

    def __init__(self, samples: Samples) -> None:
        self._left = iter(samples)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        sample = next(self._left, None)
        return None if sample is None else {"input": sample[None]}


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as cause:
        raise ModelLoadFailed(
            f"engine onnxruntime is not installed: pip install 'modelmora[onnx]' ({cause})"
        ) from cause
    return onnxruntime


LIBRARY = OnnxRuntime()
