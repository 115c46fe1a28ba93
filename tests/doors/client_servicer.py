"""What the small server of the client's tests answers over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelmora.errors import ModelMoraError
from modelmora.proto import inference_pb2, types_pb2
from tests.doors.client_script import SERVER_TIMING, STATUS, Script, Seen
from tests.doors.client_task_servicer import TaskServicer

PROGRESS = (("queued", 0.0), ("loading", 35.0), ("inference", 80.0))


class Servicer(TaskServicer):
    """Embeddings as the script says, the other tasks beside them."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.answer = script.answer

    def meet(self, items: Sequence[bytes], context: Any) -> None:
        try:
            self._script.meet(Seen(tuple(items), dict(context.invocation_metadata()), peer=context.peer()))
        except ModelMoraError as error:
            self._abort(error, context)

    def GenerateEmbedding(self, request: inference_pb2.EmbeddingRequest, context: Any) -> Any:
        items = tuple(item.image or item.text.encode() for item in request.items)
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        try:
            self._script.meet(Seen(items, headers, request.truncate, context.peer()))
            answers = self._script.answer(items)
            if len(items) == 1 and isinstance(answers[0], ModelMoraError):
                raise answers[0]
        except ModelMoraError as error:
            self._abort(error, context)
        context.set_trailing_metadata((("server-timing", SERVER_TIMING),))
        results = [self._result(index, answer) for index, answer in enumerate(answers)]
        name, _, version = request.model.partition("@")
        # In another order than asked: only the index counts.
        return inference_pb2.EmbeddingResponse(
            model=name or "shapes-clip", version=version or "1.0.0", results=results[::-1]
        )

    def GenerateBatch(self, request_iterator: Any, context: Any) -> Any:
        index = 0
        for request in request_iterator:
            items = tuple(item.image or item.text.encode() for item in request.items)
            answers: Sequence[bytes | ModelMoraError]
            try:
                self._script.meet(Seen(items, dict(context.invocation_metadata()), request.truncate, context.peer()))
                answers = self._script.answer(items)
            except ModelMoraError as error:
                answers = [error] * len(items)
            name, _, version = request.model.partition("@")
            results = []
            for item, answer in zip(request.items, answers, strict=True):
                result = self._result(index, answer)
                result.id = item.id
                served = inference_pb2.BatchResult(
                    result=result, model=name or "shapes-clip", version=version or "1.0.0"
                )
                results.append(served)
                index += 1
            yield inference_pb2.BatchResponse(results=results[::-1])

    def GenerateEmbeddingStream(self, request: inference_pb2.EmbeddingRequest, context: Any) -> Any:
        items = tuple(item.image or item.text.encode() for item in request.items)
        try:
            self._script.meet(Seen(items, dict(context.invocation_metadata()), request.truncate, context.peer()))
        except ModelMoraError as error:
            self._abort(error, context)
        for stage, percent in PROGRESS:
            yield inference_pb2.EmbeddingProgress(stage=stage, percent=percent, done=1, total=2)
        result = self._result(0, self._script.answer(items)[0])
        yield inference_pb2.EmbeddingProgress(
            stage="done", percent=100, result=result, model="shapes-clip", version="1.0.0"
        )

    def _abort(self, error: ModelMoraError, context: Any) -> None:
        trailing = [("modelmora-code", error.code)]
        if error.retry_after_s is not None:
            trailing.append(("retry-after-s", str(error.retry_after_s)))
        context.set_trailing_metadata(tuple(trailing))
        context.abort(STATUS[error.code][1], error.detail)

    def _result(self, index: int, answer: bytes | ModelMoraError) -> inference_pb2.EmbeddingResult:
        if isinstance(answer, ModelMoraError):
            return inference_pb2.EmbeddingResult(
                index=index,
                error=types_pb2.ItemError(
                    code=answer.code,
                    detail=answer.detail,
                    field=answer.field or "",
                    found=answer.found or "",
                    expected=answer.expected or "",
                ),
            )
        return inference_pb2.EmbeddingResult(
            index=index,
            embedding=types_pb2.Vector(data=answer, dtype=types_pb2.DTYPE_FLOAT32, shape=[self._script.declared]),
        )
