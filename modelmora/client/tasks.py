"""What a server does beside embedding: classes, masks, tensors, several models side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from operator import index as whole
from typing import TYPE_CHECKING, TypeVar

from modelmora.client import flow
from modelmora.client.chunks import chunks
from modelmora.client.classification import Classification, ClassifyOptions
from modelmora.client.comparison import Comparison, completed, passing
from modelmora.client.pictures import read, read_each
from modelmora.client.prediction import Prediction
from modelmora.client.segmentation import Segmentation
from modelmora.client.segmenting import Parts, Segmenting, plain, sendable
from modelmora.client.session import Session, noted, noted_in
from modelmora.client.tensors import tensor_of
from modelmora.client.transport import Transport
from modelmora.domain.inference import Call, Content, Image, Priority
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt
from modelmora.errors import InvalidInput, ModelMoraError, ValidationFailed

if TYPE_CHECKING:
    from modelmora.client.pictures import Picture, Source
    from modelmora.client.tensors import Given

T = TypeVar("T")


class Tasks(Session):
    """Everything here may be repeated, so what failed for a passing reason is asked for again within the deadline."""

    async def classify(
        self,
        pictures: Sequence[Picture],
        *,
        labels: Sequence[str] = (),
        templates: Sequence[str] = (),
        top_k: int | None = None,
        threshold: float | None = None,
        model: str | None = None,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "interactive",
    ) -> list[Outcome[Classification]]:
        """One outcome per picture, same order, in as few requests as the limits allow, within one deadline.

        With `labels` of your own an embedding model classifies (zero-shot), without them a classifier. `templates` are
        texts with `{}` for the label; `truncate` cuts those that are too long.
        """
        options = _options(labels, templates, top_k, threshold)
        call = self._call(timeout, truncate=truncate, priority=priority)
        outcomes: list[Outcome[Classification]] = []

        async def ask(transport: Transport, images: Sequence[Image]) -> list[Outcome[Classification]]:
            return await transport.classify(images, options=options, model=model, call=call)

        async def send(chunk: list[Outcome[Content]]) -> list[Outcome[Classification]]:
            return await self._settle([_picture(content) for content in chunk], ask, call=call)

        contents = chunks(read_each(_many("pictures", pictures)))
        async with aclosing(flow.spread(contents, send, concurrency=self._channels)) as parts:
            async for _, part in parts:
                outcomes += part
        return outcomes

    async def segment(
        self,
        picture: Picture,
        asked: Sequence[Prompt] | Everything,
        *,
        multimask: bool | None = None,
        logits: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> AsyncGenerator[tuple[int, Outcome[Segmentation]], None]:
        """`(index, outcome)` of each prompt as they come, once each, or of every mask of `Everything()`.

        Raises what is wrong with the picture or the request as a whole. When the connection breaks, only what was not
        answered is asked for again. Leaving early frees the server of the work.
        """
        call = self._call(timeout, priority=priority)
        image = unwrap(_picture(await read(picture)))
        options = MaskOptions(multimask=None if multimask is None else bool(multimask), logits=bool(logits))
        self._open()

        def ask(some: Sequence[Prompt] | Everything, ref: str | None) -> Parts:
            return self._still_open().segment(image, some, options=options, model=ref, call=call)

        segmenting = Segmenting(ask, model=model, retrier=self._retrier, deadline=call.deadline)
        try:
            async with aclosing(_parts(segmenting, asked)) as parts:
                async for index, outcome in parts:
                    yield index, noted_in(outcome, call)
        except ModelMoraError as error:
            noted(error, call)
            raise

    async def segment_all(
        self,
        picture: Picture,
        asked: Sequence[Prompt] | Everything,
        *,
        multimask: bool | None = None,
        logits: bool = False,
        model: str | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> list[Outcome[Segmentation]]:
        """As `segment`, collected: one outcome per prompt, same order, or the masks of everything, the best first."""
        found: dict[int, Outcome[Segmentation]] = {}
        parts = self.segment(
            picture, asked, multimask=multimask, logits=logits, model=model, timeout=timeout, priority=priority
        )
        async with aclosing(parts):
            async for index, outcome in parts:
                found[index] = outcome
        return [found[index] for index in sorted(found)]

    async def predict(
        self,
        inputs: Mapping[str, Given],
        *,
        outputs: Sequence[str] = (),
        model: str | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Prediction:
        """Tensors by name through a model: arrays, nested lists (`tensor` says of which dtype) or `Tensor`.

        `outputs` names those to answer; without it all. Raises SchemaMismatch with every fault in the inputs.
        """
        tensors = {name: tensor_of(name, inputs[name]) for name in _texts("inputs", list(inputs))}
        names = _texts("outputs", outputs)
        call = self._call(timeout, priority=priority)
        self._open()

        async def once() -> Prediction:
            return await self._still_open().predict(tensors, outputs=names, model=model, call=call)

        try:
            return await self._retrier.value(once, deadline=call.deadline)
        except ModelMoraError as error:
            raise noted(error, call) from error.__cause__

    async def compare(
        self,
        models: Sequence[str],
        items: Sequence[Source],
        *,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "interactive",
    ) -> list[Outcome[Comparison]]:
        """The same pictures and texts (`Text("...")`) through several embedding models: one outcome per model.

        A model that fails leaves the others whole, and so does an item within a model.
        """
        refs = _texts("models", models)
        contents = [await read(item) for item in _many("items", items)]
        _check_comparable(refs, contents)
        call = self._call(timeout, truncate=truncate, priority=priority)
        sent = [content.value for content in contents if isinstance(content, Ok)]

        async def ask(transport: Transport, some: Sequence[str]) -> list[Outcome[Comparison]]:
            return [passing(outcome) for outcome in await transport.compare(some, sent, call=call)]

        outcomes = await self._settle([Ok(ref) for ref in refs], ask, call=call)
        return [_over(outcome, contents, call) for outcome in outcomes]


async def _parts(segmenting: Segmenting, asked: Sequence[Prompt] | Everything) -> Parts:
    """What no picture could answer is not sent."""
    if isinstance(asked, Everything):
        parts = segmenting.everything(plain(asked))
    else:
        prompts = [sendable(prompt, index) for index, prompt in enumerate(_many("prompts", asked))]
        for index, prompt in enumerate(prompts):
            if isinstance(prompt, Failed):
                yield index, prompt
        parts = segmenting.prompts({i: prompt.value for i, prompt in enumerate(prompts) if isinstance(prompt, Ok)})
    async with aclosing(parts):
        async for part in parts:
            yield part


def _over(outcome: Outcome[Comparison], contents: Sequence[Outcome[Content]], call: Call) -> Outcome[Comparison]:
    """Over all items, also those that could not be read."""
    if isinstance(outcome, Failed):
        return outcome
    for result in outcome.value.results:
        noted_in(result, call)
    return Ok(completed(outcome.value, contents))


def _options(
    labels: Sequence[str], templates: Sequence[str], top_k: int | None, threshold: float | None
) -> ClassifyOptions:
    """Raises ValidationFailed where a wire would understand something else, or nothing."""
    try:
        least = None if threshold is None else float(threshold)
        most = None if top_k is None else whole(top_k)
    except (TypeError, ValueError) as cause:
        raise ValidationFailed(f"top_k is a whole number, threshold a number: {cause}", field="top_k") from cause
    if most is not None and not 0 < most < 2**32:
        raise ValidationFailed("top_k must be above 0", field="top_k", found=str(top_k), expected="> 0")
    return ClassifyOptions(
        labels=_texts("labels", labels), templates=_texts("templates", templates), top_k=most, threshold=least
    )


def _picture(content: Outcome[Content]) -> Outcome[Image]:
    match content:
        case Ok(Image() as image):
            return Ok(image)
        case Failed():
            return content
    return Failed(ValidationFailed("this takes pictures", field="image", found="a text", expected="a picture"))


def _many(field: str, given: Sequence[T]) -> Sequence[T]:
    """Raises ValidationFailed where one thing stands for a list of things, which its letters or bytes would be."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview):
        return given
    raise ValidationFailed(f"{field} is no list", field=field, found=type(given).__name__, expected="a list")


def _texts(field: str, given: Sequence[str]) -> tuple[str, ...]:
    for index, text in enumerate(_many(field, given)):
        place = f"{field}[{index}]"
        if not isinstance(text, str):
            raise ValidationFailed(f"{place} is no text", field=place, found=type(text).__name__, expected="a str")
        try:
            text.encode()
        except UnicodeEncodeError as cause:
            raise InvalidInput(f"{place} is no Unicode: {cause.reason}", field=place) from cause
    return tuple(given)


def _check_comparable(models: Sequence[str], contents: Sequence[Outcome[Content]]) -> None:
    """Raises ValidationFailed where there is nothing to send, or why none of the items could be read."""
    for field, count in (("models", len(models)), ("items", len(contents))):
        if not count:
            raise ValidationFailed(f"there are no {field} to compare", field=field, found="0", expected="at least 1")
    if all(isinstance(content, Failed) for content in contents):
        unwrap(contents[0])
