"""What the small server of the client's tests answers beside embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np

from modelmora.errors import ModelMoraError
from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2

SERVED = ("shapes-clip", "1.0.0")
COUNTS = b"08"
"""A mask of every pixel of a picture 4 wide and 2 high."""


class TaskServicer(inference_pb2_grpc.ModelInferenceServicer):
    """`meet` notes what came and raises what is in store; `answer` gives a vector or an error an item."""

    meet: Callable[[Sequence[bytes], Any], None]
    answer: Callable[[Sequence[bytes]], Sequence[bytes | ModelMoraError]]

    def UploadImages(self, requests: Iterator[inference_pb2.UploadImagesRequest], context: Any) -> Any:
        """Not spoken here."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no pictures are kept here")

    def Search(self, request: inference_pb2.SearchRequest, context: Any) -> Any:
        """Not spoken here."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no pictures are kept here")

    def Classify(self, request: inference_pb2.ClassifyRequest, context: Any) -> Any:
        """The labels asked for, or cat and dog, each half as likely as the one before."""
        items = [item.image for item in request.items]
        self.meet(items, context)
        labels = [*request.labels] or ["cat", "dog"]
        classes = [
            inference_pb2.Class(index=index, label=label, score=0.75 / 3**index) for index, label in enumerate(labels)
        ]
        response = inference_pb2.ClassifyResponse(model=SERVED[0], version=SERVED[1])
        for index, answer in enumerate(self.answer(items)):
            result = response.results.add(index=index)
            if isinstance(answer, ModelMoraError):
                result.error.CopyFrom(types_pb2.ItemError(code=answer.code, detail=answer.detail))
            else:
                result.classes.CopyFrom(inference_pb2.Classes(classes=classes[: request.top_k or 5]))
        return response

    def Segment(self, request: inference_pb2.SegmentRequest, context: Any) -> Iterator[Any]:
        """The whole picture for each prompt, the last one first; of everything two masks."""
        self.meet([request.image], context)
        count = 2 if request.HasField("everything") else len(request.prompts)
        for index in reversed(range(count)):
            box = inference_pb2.Box(left=0, top=0, right=4, bottom=2)
            mask = inference_pb2.Mask(data=COUNTS, score=0.5 + index / 4, area=8, box=box, stability=0.96)
            yield inference_pb2.SegmentResponse(
                index=index, masks=[mask], height=2, width=4, model="sam", version="1.0.0", server_timing="total;dur=9"
            )

    def Predict(self, request: inference_pb2.PredictRequest, context: Any) -> Any:
        """Every input as it came."""
        self.meet([one.tensor.data for one in request.inputs], context)
        return inference_pb2.PredictResponse(model="iris", version="1.0.0", outputs=request.inputs)

    def Compare(self, request: inference_pb2.CompareRequest, context: Any) -> Any:
        """Every model finds its items alike by a half; one that is called `absent` is not there."""
        items = [item.image or item.text.encode() for item in request.items]
        self.meet(items, context)
        response = inference_pb2.CompareResponse()
        for model in request.models:
            if model == "absent":
                error = types_pb2.ItemError(code="model_not_found", detail="no model 'absent'")
                response.comparisons.add(model=model, error=error)
                continue
            one = response.comparisons.add(model=model, version="1.0.0", dimension=4, bytes=12 * 2**20)
            one.server_timing = "queue;dur=1, preprocess;dur=2, inference;dur=30, total;dur=35"
            self._compared(one, items)
        return response

    def _compared(self, one: inference_pb2.Comparison, items: Sequence[bytes]) -> None:
        cosines = np.full((len(items), len(items)), 0.5, "<f4")
        np.fill_diagonal(cosines, 1.0)
        for index, answer in enumerate(self.answer(items)):
            result = one.results.add(index=index)
            if isinstance(answer, ModelMoraError):
                result.error.CopyFrom(types_pb2.ItemError(code=answer.code, detail=answer.detail))
                cosines[index] = cosines[:, index] = np.nan
            else:
                result.embedding.CopyFrom(types_pb2.Vector(data=answer, shape=[4]))
        one.similarities.CopyFrom(types_pb2.Vector(data=cosines.tobytes(), shape=cosines.shape))
