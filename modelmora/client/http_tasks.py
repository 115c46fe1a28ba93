"""Classifying, segmenting, predicting and comparing over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from modelmora.client.answers import Answer, arrange, error_from, lost, promised
from modelmora.client.classification import Classification, ClassifyOptions
from modelmora.client.comparison import Comparison, square, taken
from modelmora.client.http_calls import HttpCalls, files_of
from modelmora.client.http_connection import json_of
from modelmora.client.http_segmentation import fields_of, segmented
from modelmora.client.prediction import Prediction
from modelmora.client.segmentation import Segmentation
from modelmora.client.tensors import received
from modelmora.domain.classification import Class
from modelmora.domain.inference import Call, Content, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import InternalError, ModelMoraError


class HttpTasks(HttpCalls):
    """What is under `/v1` beside embedding."""

    async def classify(
        self, images: Sequence[Image], *, options: ClassifyOptions, model: str | None, call: Call
    ) -> list[Outcome[Classification]]:
        fields: dict[str, Any] = {"truncate": "true"} if call.truncate else {}
        fields |= {"model": model} if model else {}
        # As JSON: a label may begin with a bracket or stand in quotes.
        fields |= {"labels": [*map(json.dumps, options.labels)], "templates": [*map(json.dumps, options.templates)]}
        fields |= {} if options.top_k is None else {"top_k": str(options.top_k)}
        fields |= {} if options.threshold is None else {"threshold": repr(options.threshold)}
        try:
            response = await self._send("/v1/classify", call, files=files_of([one.data for one in images]), data=fields)
            return _classified(len(images), json_of(response), response.headers.get("server-timing", ""))
        except ModelMoraError as error:
            return lost(len(images), error)

    async def segment(
        self,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        model: str | None,
        call: Call,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmentation]], None]:
        content = {"files": files_of([image.data]), "data": fields_of(asked, options=options, model=model)}
        done = False
        async with aclosing(
            self._lines("/v1/segment", call, headers={"accept": "application/x-ndjson"}, **content)
        ) as lines:
            async for line in lines:
                if line.get("done"):
                    done = True
                else:
                    yield segmented(line)
        if not done:
            raise InternalError("the server ended the lines before it was done")

    async def predict(
        self, inputs: Mapping[str, Tensor], *, outputs: Sequence[str], model: str | None, call: Call
    ) -> Prediction:
        body: dict[str, Any] = {
            "inputs": {name: _tensor(tensor) for name, tensor in inputs.items()},
            "encoding_format": "base64",
        }
        body |= ({"model": model} if model else {}) | ({"outputs": [*outputs]} if outputs else {})
        response = await self._send("/v1/predict", call, json=body)
        return _predicted(json_of(response), response.headers.get("server-timing", ""))

    async def compare(
        self, models: Sequence[str], items: Sequence[Content], *, call: Call
    ) -> list[Outcome[Comparison]]:
        """A form has its pictures before its texts."""
        order = sorted(range(len(items)), key=lambda place: isinstance(items[place], Text))
        try:
            response = await self._send("/v1/compare", call, **_comparing(models, items, call.truncate))
            with promised("a comparison"):
                rows = [(int(row["index"]), _compared(row, order)) for row in json_of(response)["data"]]
            return arrange(len(models), rows)
        except ModelMoraError as error:
            return lost(len(models), error)


def _classified(count: int, body: Any, server_timing: str) -> list[Outcome[Classification]]:
    with promised("classes"):
        answer = Answer(model=str(body["model"]), version=str(body["version"]), server_timing=server_timing)
        return arrange(count, [(int(row["index"]), _classes(row, answer)) for row in body["data"]])


def _classes(row: Mapping[str, Any], answer: Answer) -> Outcome[Classification]:
    if "error" in row:
        return Failed(error_from(row["error"]))
    classes = tuple(Class(int(one["index"]), str(one["label"]), float(one["score"])) for one in row["classes"])
    return Ok(Classification(classes=classes, **answer.told))


def _comparing(models: Sequence[str], items: Sequence[Content], truncate: bool) -> dict[str, Any]:
    """A form, or JSON where there are no pictures."""
    images = [item.data for item in items if isinstance(item, Image)]
    texts = [item.text for item in items if isinstance(item, Text)]
    if not images:
        asked = {"models": [*models], "texts": texts, "embeddings": True, "truncate": truncate}
        return {"json": asked | {"encoding_format": "base64"}}
    # The texts as JSON: one may begin with a bracket or stand in quotes.
    fields: dict[str, Any] = {"models": [*models], "texts": [*map(json.dumps, texts)], "embeddings": "true"}
    fields |= {"truncate": "true"} if truncate else {}
    return {"files": files_of(images), "data": fields | {"encoding_format": "base64"}}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": tensor.dtype,
        "shape": [*tensor.shape],
        "data": base64.b64encode(tensor.data).decode("ascii"),
    }


def _predicted(body: Any, server_timing: str) -> Prediction:
    with promised("outputs"):
        answer = Answer(model=str(body["model"]), version=str(body["version"]), server_timing=server_timing)
        outputs = {
            str(name): received(
                str(one["dtype"]),
                [int(size) for size in one["shape"]],
                base64.b64decode(one["data"], validate=True),
                name=str(name),
            )
            for name, one in body["outputs"].items()
        }
        labels = {str(name): _flat(one["labels"]) for name, one in body["outputs"].items() if "labels" in one}
        return Prediction(outputs=outputs, labels=labels, **answer.told)


def _flat(labels: Any) -> tuple[str, ...]:
    """Nested as the rows are, or a single one."""
    return tuple(label for one in labels for label in _flat(one)) if isinstance(labels, list) else (str(labels),)


def _compared(row: Mapping[str, Any], order: Sequence[int]) -> Outcome[Comparison]:
    """Of the form's order back into the caller's: the form's first item was item `order[0]`."""
    if "error" in row:
        return Failed(error_from(row["error"]))
    timings = ", ".join(f"{name.removesuffix('_ms')};dur={ms}" for name, ms in row["timings"].items())
    answer = Answer(
        model=str(row["model"]),
        version=str(row["version"]),
        server_timing=f"{timings}, total;dur={row['total_ms']}",
    )
    count, dimension = len(order), int(row["dimension"])
    results = arrange(count, [(int(one["index"]), _embedded(one, answer, dimension)) for one in row["results"]])
    comparison = Comparison(
        results=tuple(results),
        dimension=dimension,
        bytes=int(row["bytes"]),
        similarities=square([value for line in row["similarities"] for value in line], count),
        **answer.told,
    )
    return Ok(taken(comparison, sorted(range(count), key=order.__getitem__)))


def _embedded(row: Mapping[str, Any], answer: Answer, dimension: int) -> Outcome[Any]:
    if "error" in row:
        return Failed(error_from(row["error"]))
    return answer.embedding(base64.b64decode(row["embedding"], validate=True), dimension=dimension)
