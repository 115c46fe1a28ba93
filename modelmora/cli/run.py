"""A run of `modelmora embed`: sources in, outcomes out, stopping when the server is the problem."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from modelmora.cli.sources import Source
from modelmora.client import Client, Embedding, Failed, InputError, InternalError, ModelMoraError, Ok, Outcome
from modelmora.domain.inference import Priority

Report: TypeAlias = Callable[[Source, Outcome[Embedding]], None]
Answers: TypeAlias = AsyncGenerator[tuple[int, Outcome[Embedding]], None]

AWAITED = 16
"""So few items are interactive: somebody waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to embed: `concurrency` items on their way at once; `ordered` reports in the order of the sources.

    `timeout` is each item's deadline in seconds; None: the server's usual time.
    """

    model: str | None
    concurrency: int
    truncate: bool
    ordered: bool
    timeout: float | None = None


@dataclass(slots=True)
class Run:
    """What came of it. `stopped` is why it ended early: an error that the next item would meet as well."""

    done: dict[Source, Embedding] = field(default_factory=dict)
    failed: dict[Source, ModelMoraError] = field(default_factory=dict)
    stopped: ModelMoraError | None = None


async def embed_all(client: Client, sources: Sequence[Source], *, options: Options, report: Report) -> Run:
    """Embeds every source, reporting each as it is settled."""
    run = Run()
    try:
        async with aclosing(_answers(client, sources, options)) as settled:
            async for index, outcome in settled:
                _note(run, sources[index], outcome)
                if run.stopped is not None:
                    break
                report(sources[index], outcome)
    except ModelMoraError as error:
        run.stopped = error
    return run


def _answers(client: Client, sources: Sequence[Source], options: Options) -> Answers:
    """Over one stream; where items have a deadline of their own, each in a request, since a stream has one for all."""
    contents = [source.content for source in sources]
    priority: Priority = "bulk" if len(sources) > AWAITED else "interactive"
    if options.timeout is not None:
        return client.embed_many(
            contents,
            model=options.model,
            concurrency=options.concurrency,
            ordered=options.ordered,
            timeout=options.timeout,
            truncate=options.truncate,
            priority=priority,
        )
    answers = client.generate_batch(
        contents, model=options.model, window=options.concurrency, truncate=options.truncate, priority=priority
    )
    return _in_order(answers) if options.ordered else answers


def _note(run: Run, source: Source, outcome: Outcome[Embedding]) -> None:
    match outcome:
        case Ok(embedding):
            run.done[source] = embedding
        case Failed(error) if _is_of_the_item(error):
            run.failed[source] = error
        case Failed(error):
            run.stopped = error


async def _in_order(answers: Answers) -> Answers:
    """What completes early waits for what comes before it."""
    waiting: dict[int, Outcome[Embedding]] = {}
    following = 0
    async with aclosing(answers):
        async for index, outcome in answers:
            waiting[index] = outcome
            while following in waiting:
                yield following, waiting.pop(following)
                following += 1


def _is_of_the_item(error: ModelMoraError) -> bool:
    """Another picture may fare better; with an absent server, model or permission it would not."""
    return isinstance(error, InputError | InternalError)
