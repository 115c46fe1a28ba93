"""The seam of the SDK: what carries items to a server, and the choice of it by URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, TypeAlias

from modelmora.client.address import Address
from modelmora.client.classification import Classification, ClassifyOptions
from modelmora.client.comparison import Comparison
from modelmora.client.embedding import Embedding
from modelmora.client.found import Found
from modelmora.client.kept import KeptImage
from modelmora.client.prediction import Prediction
from modelmora.client.progress import Progress
from modelmora.client.questions import Question
from modelmora.client.segmentation import Segmentation
from modelmora.client.uploading import Parcel, Terms
from modelmora.domain.inference import Call, Content, Image
from modelmora.domain.outcome import Outcome
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt
from modelmora.domain.tensors import Tensor

Group: TypeAlias = Sequence[tuple[int, Content]]
"""Items of a stream that go out together, each with the caller's number."""


class Streams(Protocol):
    """What a batch needs of a transport."""

    def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        """The outcome of each item by its number, as they complete, while groups still come.

        Raises what breaks the stream as a whole; closing it early ends the stream. An infinite deadline is not told.
        """
        ...


class Transport(Streams, Protocol):
    """Sends requests and reads their answers; retries, chunks and the deadline are the client's."""

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        """One outcome per item, same order; where the request is lost, each item fails with the reason.

        Tells the server `call`'s deadline. Raises nothing of `modelmora.errors`.
        """
        ...

    def progress(self, item: Content, *, model: str | None, call: Call) -> AsyncGenerator[Progress | Embedding, None]:
        """How far the item is, then its embedding; raises the item's error or what breaks the stream."""
        ...

    async def classify(
        self, images: Sequence[Image], *, options: ClassifyOptions, model: str | None, call: Call
    ) -> list[Outcome[Classification]]:
        """As `embed`."""
        ...

    def segment(
        self,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        model: str | None,
        call: Call,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmentation]], None]:
        """The outcome of each prompt by its place, as they come, or the masks of everything one after the other.

        Raises what concerns the request as a whole, which an only prompt's error does as well.
        """
        ...

    async def predict(
        self, inputs: Mapping[str, Tensor], *, outputs: Sequence[str], model: str | None, call: Call
    ) -> Prediction:
        """Raises what is wrong with the request."""
        ...

    async def compare(
        self, models: Sequence[str], items: Sequence[Content], *, call: Call
    ) -> list[Outcome[Comparison]]:
        """One outcome per model, same order, each over all items in theirs; as `embed` where the request is lost."""
        ...

    async def upload(self, parcels: Sequence[Parcel], *, terms: Terms, call: Call) -> list[Outcome[KeptImage]]:
        """One outcome per picture, same order; as `embed` where the request is lost."""
        ...

    async def search(self, question: Question, *, call: Call) -> Found:
        """Raises what is wrong with the question."""
        ...

    async def close(self) -> None:
        """Lets go of every connection; safe to repeat."""
        ...


def connect(address: Address, *, channels: int, token: str | None) -> Transport:
    """The transport of the URL's scheme. Called inside the event loop that will use it; connects lazily."""
    if address.wire == "grpc":
        from modelmora.client.grpc_transport import GrpcTransport  # noqa: PLC0415 - HTTP users do not load grpc

        return GrpcTransport(address, channels=channels, token=token)
    from modelmora.client.http_transport import HttpTransport  # noqa: PLC0415 - gRPC users do not load httpx

    return HttpTransport(address, token=token)
