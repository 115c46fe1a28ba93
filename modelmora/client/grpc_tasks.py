"""Classifying, segmenting, predicting and comparing over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from modelmora.client import grpc_messages as messages
from modelmora.client import grpc_tensors as tensors
from modelmora.client.answers import Answer, arrange, lost
from modelmora.client.classification import Classification, ClassifyOptions
from modelmora.client.comparison import Comparison
from modelmora.client.grpc_connection import GrpcConnection
from modelmora.client.grpc_segmentation import segment_request, segmented
from modelmora.client.prediction import Prediction
from modelmora.client.segmentation import Segmentation
from modelmora.domain.classification import Class
from modelmora.domain.inference import Call, Content, Image
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import InternalError, ModelMoraError
from modelmora.proto import inference_pb2 as pb


class GrpcTasks(GrpcConnection):
    """What `modelmora.v1.ModelInference` does beside embedding."""

    async def classify(
        self, images: Sequence[Image], *, options: ClassifyOptions, model: str | None, call: Call
    ) -> list[Outcome[Classification]]:
        request = pb.ClassifyRequest(
            model=model or "",
            items=[messages.item(image) for image in images],
            labels=options.labels,
            templates=options.templates,
            top_k=options.top_k or 0,
            threshold=options.threshold or 0.0,
            truncate=call.truncate,
        )
        try:
            response, timing = await self._ask("Classify", request, call)
        except ModelMoraError as error:
            return lost(len(images), error)
        answer = Answer(model=response.model, version=response.version, server_timing=timing)
        return arrange(len(images), ((result.index, _classified(result, answer)) for result in response.results))

    async def segment(
        self,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        model: str | None,
        call: Call,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmentation]], None]:
        request = segment_request(image, asked, options=options, model=model)
        with self._calling("Segment", call) as start:
            rpc = start(request)
            try:
                async for response in rpc:
                    yield response.index, segmented(response)
            finally:
                rpc.cancel()

    async def predict(
        self, inputs: Mapping[str, Tensor], *, outputs: Sequence[str], model: str | None, call: Call
    ) -> Prediction:
        named = [pb.NamedTensor(name=name, tensor=tensors.vector_of(tensor)) for name, tensor in inputs.items()]
        request = pb.PredictRequest(model=model or "", inputs=named, outputs=outputs)
        response, timing = await self._ask("Predict", request, call)
        answer = Answer(model=response.model, version=response.version, server_timing=timing)
        given = {one.name: tensors.array_of(one.tensor, one.name) for one in response.outputs}
        labels = {one.name: tuple(one.labels) for one in response.outputs if one.labels}
        return Prediction(outputs=given, labels=labels, **answer.told)

    async def compare(
        self, models: Sequence[str], items: Sequence[Content], *, call: Call
    ) -> list[Outcome[Comparison]]:
        request = pb.CompareRequest(
            models=models, items=[messages.item(item) for item in items], truncate=call.truncate
        )
        try:
            response, _ = await self._ask("Compare", request, call)
            return arrange(len(models), enumerate(_compared(one, len(items)) for one in response.comparisons))
        except ModelMoraError as error:
            return lost(len(models), error)


def _classified(result: pb.ClassifyResult, answer: Answer) -> Outcome[Classification]:
    match result.WhichOneof("outcome"):
        case "classes":
            classes = tuple(Class(one.index, one.label, one.score) for one in result.classes.classes)
            return Ok(Classification(classes=classes, **answer.told))
        case "error":
            return Failed(messages.error_from(result.error))
        case _:
            return Failed(InternalError(f"the server answered item {result.index} with neither classes nor error"))


def _compared(one: pb.Comparison, count: int) -> Outcome[Comparison]:
    """Raises InternalError where the similarities are not those of so many items."""
    if one.HasField("error"):
        return Failed(messages.error_from(one.error))
    answer = Answer(model=one.model, version=one.version, server_timing=one.server_timing)
    similarities = tensors.array_of(one.similarities, "similarities")
    if (similarities.dtype, similarities.shape) != ("float32", (count, count)):
        found = f"{similarities.dtype} {list(similarities.shape)}"
        raise InternalError("the server sent other similarities", found=found, expected=f"float32 [{count}, {count}]")
    results = arrange(count, ((result.index, messages.outcome(result, answer)) for result in one.results))
    return Ok(
        Comparison(
            results=tuple(results),
            dimension=one.dimension,
            bytes=one.bytes,
            similarities=similarities,
            **answer.told,
        )
    )
