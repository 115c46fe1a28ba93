"""Triton's own client, unchanged, in a process of its own: its protocol's names and ours cannot be in one together.

`python -m tests.e2e.triton_caller http|grpc ADDRESS SCENARIO [ARGUMENT...]` prints as JSON what the client got.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import wait_until

Values = list[Any]


class Caller:
    """One client; `kit` is `tritonclient.http` or `tritonclient.grpc`, which have nearly the same classes."""

    def __init__(self, protocol: str, address: str) -> None:
        self.protocol, self.address = protocol, address
        self.kit: Any = importlib.import_module(f"tritonclient.{protocol}")
        self.client: Any = self.kit.InferenceServerClient(address)
        self.json: dict[str, Any] = {"as_json": True} if protocol == "grpc" else {}

    def input(self, name: str, values: Values, dtype: Any, datatype: str, *, binary: bool = True) -> Any:
        array = np.array(values, dtype=dtype)
        told = self.kit.InferInput(name, list(array.shape), datatype)
        if self.protocol == "http":
            return told.set_data_from_numpy(array, binary_data=binary)
        return told.set_data_from_numpy(array)

    def pictures(self, files: list[str]) -> Any:
        return self.input("image", [Path(file).read_bytes() for file in files], np.object_, "BYTES")

    def texts(self, contents: list[str], *, binary: bool = True) -> Any:
        return self.input("text", [content.encode() for content in contents], np.object_, "BYTES", binary=binary)

    def embedded(self, model: str, told: Any, **more: Any) -> Values:
        return list(self.client.infer(model, [told], **more).as_numpy("embedding").tolist())

    def error(self, call: Any) -> dict[str, str]:
        """What the client shows of a call that fails."""
        try:
            call()
        except Exception as error:
            shown: Any = error
            return {"message": shown.message(), "status": shown.status()}
        raise AssertionError("it did not fail")


def look(caller: Caller, model: str) -> dict[str, Any]:
    client, as_json = caller.client, caller.json
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "server": client.get_server_metadata(**as_json),
        "model": client.get_model_metadata(model, **as_json),
        "version": client.get_model_metadata(model, "1.0.0", **as_json),
        "config": client.get_model_config(model, **as_json),
        "index": client.get_model_repository_index(**as_json),
    }


def embed(caller: Caller, model: str, *files: str) -> dict[str, Any]:
    pictures, texts = caller.pictures([*files]), ["a red circle", "two blue squares"]
    wanted = caller.kit.InferRequestedOutput("embedding")
    result = caller.client.infer(model, [pictures], model_version="1.0.0", request_id="42", outputs=[wanted])
    response = result.get_response(**caller.json)
    return {
        "id": response["id"],
        "model": [response["model_name"], response["model_version"]],
        "dtype": str(result.as_numpy("embedding").dtype),
        "pictures": result.as_numpy("embedding").tolist(),
        "texts": caller.embedded(model, caller.texts(texts)),
        "json": caller.embedded(model, caller.texts(texts, binary=False)),
        "column": caller.embedded(
            model, caller.input("text", [[text.encode()] for text in texts], np.object_, "BYTES")
        ),
    }


def compress(caller: Caller, model: str, *files: str) -> list[Values]:
    if caller.protocol == "http":
        ways = [{"request_compression_algorithm": one, "response_compression_algorithm": one} for one in CODINGS]
    else:
        ways = [{"compression_algorithm": one} for one in CODINGS]
    return [caller.embedded(model, caller.pictures([*files]), **way) for way in ways]


CODINGS = ("gzip", "deflate")


def refuse(caller: Caller, model: str) -> dict[str, dict[str, str]]:
    client, kit = caller.client, caller.kit
    text = caller.texts(["a red circle"])
    torn = caller.input("image", [b"no picture"], np.object_, "BYTES")
    wrong = [kit.InferRequestedOutput("vector")]
    return {
        "model": caller.error(lambda: client.infer(f"{model}p", [text])),
        "metadata": caller.error(lambda: client.get_model_metadata(model, "9.0.0")),
        "output": caller.error(lambda: client.infer(model, [text], outputs=wrong)),
        "inputs": caller.error(lambda: client.infer(model, [text, torn])),
        "picture": caller.error(lambda: client.infer(model, [torn])),
        "config": caller.error(lambda: client.load_model(model, config="{}")),
        "statistics": caller.error(lambda: client.get_inference_statistics(model)),
    }


def together(caller: Caller, model: str, *files: str) -> list[Values]:
    """Each picture by itself, all at once, through the client's own threads, then through its asynchronous twin."""
    if caller.protocol == "http":
        with caller.kit.InferenceServerClient(caller.address, concurrency=4) as client:
            calls = [client.async_infer(model, [caller.pictures([file])]) for file in files]
            first = [call.get_result().as_numpy("embedding")[0].tolist() for call in calls]
    else:
        first = streamed(caller, model, list(files))
    return [first, asyncio.run(_awaited(caller, model, list(files)))]


def streamed(caller: Caller, model: str, files: list[str]) -> Values:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    caller.client.start_stream(callback=lambda result, error: came.put((result, error)))
    for place, file in enumerate(files):
        caller.client.async_stream_infer(model, [caller.pictures([file])], request_id=str(place))
    answers = [came.get(timeout=60) for _ in files]
    caller.client.stop_stream()
    assert [error for _, error in answers if error is not None] == []
    vectors = {result.get_response().id: result.as_numpy("embedding")[0].tolist() for result, _ in answers}
    return [vectors[str(place)] for place in range(len(files))]


async def _awaited(caller: Caller, model: str, files: list[str]) -> Values:
    kit = importlib.import_module(f"tritonclient.{caller.protocol}.aio")
    async with kit.InferenceServerClient(caller.address) as client:
        calls = (client.infer(model, [caller.pictures([file])]) for file in files)
        return [result.as_numpy("embedding")[0].tolist() for result in await asyncio.gather(*calls)]


def change(caller: Caller, model: str) -> list[Any]:
    """Ready or not: at first, unloaded, after an inference that brings it back, unloaded again, loaded."""
    client, ready = caller.client, []

    def look_again() -> None:
        states = {one["name"]: one.get("state") for one in _models(client.get_model_repository_index(**caller.json))}
        ready.append([client.is_model_ready(model), states[model]])

    client.load_model(model)
    look_again()
    client.unload_model(model)
    look_again()
    caller.embedded(model, caller.texts(["a"]))
    wait_until(lambda: bool(client.is_model_ready(model)), within_s=20, what="the news that an inference loaded it")
    look_again()
    client.unload_model(f"{model}@1.0.0")
    look_again()
    client.load_model(model)
    look_again()
    return ready


def _models(index: Any) -> list[dict[str, Any]]:
    return list(index["models"] if isinstance(index, dict) else index)


def predict(caller: Caller, model: str) -> dict[str, Any]:
    client, rows = caller.client, [[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0]]
    x = caller.input("x", rows, np.float32, "FP32")
    wanted = [caller.kit.InferRequestedOutput(name) for name in ("best", "y")]
    everything, chosen = client.infer(model, [x]), client.infer(model, [x], outputs=wanted)
    wide = caller.input("x", [[1.0, 2.0, 3.0, 4.0]], np.float32, "FP32")
    return {
        "metadata": client.get_model_metadata(model, **caller.json),
        "config": client.get_model_config(model, **caller.json),
        "y": everything.as_numpy("y").tolist(),
        "best": everything.as_numpy("best").tolist(),
        "chosen": [one["name"] for one in chosen.get_response(**caller.json)["outputs"]],
        "json": client.infer(model, [caller.input("x", rows, np.float32, "FP32", binary=False)]).as_numpy("y").tolist(),
        "wide": caller.error(lambda: client.infer(model, [wide])),
        "nan": caller.error(
            lambda: client.infer(model, [caller.input("x", [[1.0, float("nan"), 0.0]], np.float32, "FP32")])
        ),
        "output": caller.error(lambda: client.infer(model, [x], outputs=[caller.kit.InferRequestedOutput("z")])),
        "int": caller.error(lambda: client.infer(model, [caller.input("x", [[1, 2, 3]], np.int64, "INT64")])),
    }


SCENARIOS = {one.__name__: one for one in (look, embed, compress, refuse, together, change, predict)}


if __name__ == "__main__":
    protocol, address, scenario, *arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(SCENARIOS[scenario](Caller(protocol, address), *arguments)))
