"""Messages of the protocol and the values that both of its faces share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from api.oip.asked import LARGE, SMALL, Asked, Inferred, Parameters, check_count, check_tensor_parameters
from api.oip.datatypes import CONFIG_TYPES, DATATYPES, RANK, dtype_of, shape_of, tensor_of
from api.oip.elements import check_size, tensor_of_numbers
from api.oip.metadata import Told, inputs_of, max_batch_size, outputs_of, platform_of
from api.oip.said import said
from modelmora.domain.tensors import DType, Tensor, pack
from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.proto import open_inference_pb2 as pb
from modelmora.usecases.describe import Described

_CONTENTS: Mapping[DType, str] = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "bytes": "bytes_contents",
}


async def asked_of(request: pb.ModelInferRequest) -> Asked:
    """Raises ValidationFailed, SchemaMismatch, LimitExceeded."""
    small = request.ByteSize() <= (LARGE if request.raw_input_contents else SMALL)
    return _asked(request) if small else await asyncio.to_thread(_asked, request)


def _asked(request: pb.ModelInferRequest) -> Asked:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ValidationFailed(
            "there is not one raw content for each input",
            field="raw_input_contents",
            found=str(len(raw)),
            expected=f"{len(request.inputs)}, or none",
        )
    check_count(len(request.inputs), "inputs")
    inputs: dict[str, Tensor] = {}
    for index, told in enumerate(request.inputs):
        place = f"inputs[{index}]"
        _check_name(told.name, place, inputs)
        inputs[told.name] = _input(told, place) if not raw else _raw_input(told, raw[index], index)
    if not inputs:
        raise ValidationFailed("there are no inputs", field="inputs", found="none", expected="at least one")
    return Asked(inputs=inputs, outputs=_outputs(request.outputs), parameters=_parameters(request.parameters))


def inferred_to(inferred: Inferred, id_: str) -> pb.ModelInferResponse:
    """The outputs in raw form: what Triton answers, and the only one that its client reads."""
    return pb.ModelInferResponse(
        model_name=inferred.model.name,
        model_version=inferred.model.version,
        id=id_,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
            for name, tensor in inferred.outputs.items()
        ],
        raw_output_contents=[tensor.data for tensor in inferred.outputs.values()],
    )


def failed_to(error: ModelMoraError, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """The error of one inference of a stream; the id says which."""
    told = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    return pb.ModelStreamInferResponse(error_message=said(error), infer_response=told)


def metadata_of(described: Described) -> pb.ModelMetadataResponse:
    """The model's tensors."""
    return pb.ModelMetadataResponse(
        name=described.model.name,
        versions=described.versions,
        platform=platform_of(described),
        inputs=[_metadata(told) for told in inputs_of(described)],
        outputs=[_metadata(told) for told in outputs_of(described)],
    )


def config_of(described: Described) -> pb.ModelConfig:
    """The part of Triton's configuration that clients use."""
    return pb.ModelConfig(
        name=described.model.name,
        platform=platform_of(described),
        backend=described.model.provider,
        max_batch_size=max_batch_size(described),
        input=[
            pb.ModelInput(name=told.name, data_type=_type(told), dims=told.dims, optional=told.optional)
            for told in inputs_of(described)
        ],
        output=[
            pb.ModelOutput(name=told.name, data_type=_type(told), dims=told.dims) for told in outputs_of(described)
        ],
    )


def _metadata(told: Told) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=told.name, datatype=DATATYPES[told.dtype], shape=told.shape)


def _type(told: Told) -> pb.DataType.ValueType:
    return pb.DataType.Value(CONFIG_TYPES[told.dtype])


def _input(told: pb.ModelInferRequest.InferInputTensor, place: str) -> Tensor:
    dtype, shape = _kind(told, place)
    return _typed(told.contents, dtype, shape, f"{place}.contents")


def _raw_input(told: pb.ModelInferRequest.InferInputTensor, raw: bytes, index: int) -> Tensor:
    dtype, shape = _kind(told, f"inputs[{index}]")
    if told.contents.ListFields():
        raise ValidationFailed("the data comes twice: raw and as contents", field=f"inputs[{index}].contents")
    return tensor_of(raw, dtype, shape, f"raw_input_contents[{index}]")


def _kind(told: pb.ModelInferRequest.InferInputTensor, place: str) -> tuple[DType, tuple[int, ...]]:
    check_tensor_parameters(told.parameters, place)
    dtype, axes = dtype_of(told.datatype, f"{place}.datatype"), len(told.shape)
    if axes > RANK:  # before a list is made of them
        raise ValidationFailed(
            "the shape has too many axes", field=f"{place}.shape", found=f"{axes} axes", expected=f"at most {RANK}"
        )
    return dtype, shape_of(list(told.shape), f"{place}.shape")


def _typed(contents: pb.InferTensorContents, dtype: DType, shape: tuple[int, ...], field: str) -> Tensor:
    wanted = _CONTENTS.get(dtype)
    if wanted is None:
        raise ValidationFailed(
            f"{DATATYPES[dtype]} has no contents of its own", field=field, expected="raw_input_contents"
        )
    wrong = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != wanted]
    if wrong:
        raise ValidationFailed(
            f"the contents are not those of {DATATYPES[dtype]}", field=field, found=", ".join(wrong), expected=wanted
        )
    repeated: Sequence[Any] = getattr(contents, wanted)
    check_size(len(repeated), shape, f"{field}.{wanted}")
    flat = list(repeated)
    if dtype != "bytes":
        return tensor_of_numbers(flat, dtype, shape, f"{field}.{wanted}")
    return Tensor(dtype=dtype, shape=shape, data=pack(flat))


def _outputs(asked: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]) -> tuple[str, ...]:
    check_count(len(asked), "outputs")
    names: dict[str, None] = {}
    for index, told in enumerate(asked):
        place = f"outputs[{index}]"
        check_tensor_parameters(told.parameters, place)
        _check_name(told.name, place, names)
        names[told.name] = None
    return tuple(names)


def _parameters(told: Mapping[str, pb.InferParameter]) -> Parameters:
    chosen = {name: one.WhichOneof("parameter_choice") for name, one in told.items()}
    return {name: getattr(told[name], choice) for name, choice in chosen.items() if choice is not None}


def _check_name(name: str, place: str, taken: Mapping[str, Any]) -> None:
    if not name or name in taken:
        detail = f"{name[:80]!r} comes twice" if name else "a tensor has no name"
        raise ValidationFailed(detail, field=f"{place}.name", found=repr(name[:80]), expected="a name of its own")
