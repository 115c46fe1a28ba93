"""Users for locust: who embeds over HTTP, over gRPC or both, who keeps pictures and searches, who asks for too much.

Each waits for its answer and asks again at once.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import FastHttpUser, User, task

from load.bench.pictures import unique
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2

grpc_gevent.init_gevent()

COLLECTION = "load"
BOUNDARY = "modelmora-load-5f0c1d"
WORDS = ("a red circle", "two dogs on a beach", "the night sky", "a cup of coffee", "an old engine", "green leaves")
_numbers = itertools.count(random.getrandbits(24))


def form(**parts: bytes | str) -> dict[str, Any]:
    """A form's body and its type; what is bytes is a picture."""
    chunks = []
    for name, value in parts.items():
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        picture = isinstance(value, bytes)
        head += '; filename="picture.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' if picture else "\r\n\r\n"
        chunks += [head.encode(), value if isinstance(value, bytes) else value.encode(), b"\r\n"]
    body = b"".join([*chunks, f"--{BOUNDARY}--\r\n".encode()])
    return {"data": body, "headers": {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}}


class Supplies:
    """What users send, and where; set before they begin."""

    pictures: ClassVar[list[bytes]] = []
    models: ClassVar[list[str]] = []
    grpc_target: ClassVar[str] = ""

    @classmethod
    def picture(cls) -> bytes:
        """Bytes that nobody sent before: no cache answers."""
        number = next(_numbers)
        return unique(cls.pictures[number % len(cls.pictures)], number)

    @classmethod
    def text(cls) -> str:
        return f"{random.choice(WORDS)} {next(_numbers)}"

    @classmethod
    def load(cls, folder: Path) -> None:
        cls.pictures[:] = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


class _Http(FastHttpUser):
    abstract = True
    network_timeout = 60.0

    def _ask(self, name: str, path: str, **content: Any) -> Any:
        """The body of an answer; what failed counts by its code."""
        with self.client.post(path, name=name, catch_response=True, **content) as response:
            if response.status_code in (200, 201, 202):
                return response.json()
            response.failure(_code(response))
            return None


class HttpEmbedder(_Http):
    """Three pictures for each text."""

    @task(3)
    def picture(self) -> None:
        self._ask("HTTP picture", "/v1/embed/image", **form(files=Supplies.picture()))

    @task(1)
    def text(self) -> None:
        self._ask("HTTP text", "/v1/embed/text", json={"texts": [Supplies.text()]})


class GrpcEmbedder(User):
    """The same over gRPC."""

    def on_start(self) -> None:
        self._channel = grpc.insecure_channel(Supplies.grpc_target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = inference_pb2_grpc.ModelInferenceStub(self._channel)

    def on_stop(self) -> None:
        self._channel.close()

    @task(3)
    def picture(self) -> None:
        self._ask("gRPC picture", types_pb2.Item(image=Supplies.picture()))

    @task(1)
    def text(self) -> None:
        self._ask("gRPC text", types_pb2.Item(text=Supplies.text()))

    def _ask(self, name: str, item: Any) -> None:
        started, failure = time.perf_counter(), None
        try:
            self._stub.GenerateEmbedding(pb.EmbeddingRequest(items=[item]), timeout=60.0)
        except grpc.RpcError as error:
            failure = Exception(_grpc_code(error))
        self.environment.events.request.fire(
            request_type="gRPC", name=name, response_time=(time.perf_counter() - started) * 1e3, response_length=0,
            exception=failure, context={},
        )  # fmt: skip


class Keeper(_Http):
    """Brings a picture, and searches by words and by a picture, as visitors of a gallery do."""

    @task(1)
    def upload(self) -> None:
        self._ask("upload", "/v1/images", **form(files=Supplies.picture(), collection=COLLECTION, ttl_s="3600"))

    @task(3)
    def by_words(self) -> None:
        self._ask("search by words", "/v1/search", json={"text": Supplies.text(), "collection": COLLECTION})

    @task(1)
    def by_picture(self) -> None:
        self._ask("search by picture", "/v1/search", **form(image=Supplies.picture(), collection=COLLECTION))


class Thrasher(_Http):
    """Asks for every model in turn, more of them than fit into memory."""

    @task
    def text(self) -> None:
        model = random.choice(Supplies.models)
        self._ask(f"text, {model}", "/v1/embed/text", json={"texts": [Supplies.text()], "model": model})


KINDS: dict[str, tuple[type[User], ...]] = {
    "http": (HttpEmbedder,),
    "grpc": (GrpcEmbedder,),
    "mixed": (HttpEmbedder, GrpcEmbedder),
    "gallery": (Keeper,),
    "thrash": (Thrasher,),
}


def _grpc_code(error: Any) -> str:
    """Ours, or gRPC's where nobody of ours answered."""
    told = {key: value for key, value in error.trailing_metadata() or () if key == "modelmora-code"}
    return str(told.get("modelmora-code", error.code().name.lower()))


def _code(response: Any) -> str:
    """Of a problem; the status of anything else, 0 where nobody answered."""
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return str(response.status_code or type(response.error).__name__)
