"""A run of `modelmora embed`: sources in, outcomes out, stopping when the server is the problem."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from modelmora.cli.sources import Source
from modelmora.client import Client, Embedding, Failed, InputError, InternalError, ModelMoraError, Ok, Outcome

Report: TypeAlias = Callable[[Source, Outcome[Embedding]], None]
Answers: TypeAlias = AsyncGenerator[tuple[int, Outcome[Embedding]], None]

AWAITED = 16
"""So few items are interactive: somebody waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to embed: `concurrency` items on their way at once; `ordered` reports in the order of the sources."""

    model: str | None
    concurrency: int
    truncate: bool
    ordered: bool


@dataclass(slots=True)
class Run:
    """What came of it. `stopped` is why it ended early: an error that the next item would meet as well."""

    done: dict[Source, Embedding] = field(default_factory=dict)
    failed: dict[Source, ModelMoraError] = field(default_factory=dict)
    stopped: ModelMoraError | None = None


async def embed_all(client: Client, sources: Sequence[Source], *, options: Options, report: Report) -> Run:
    """Embeds every source over one stream, reporting each as it is settled."""
    run = Run()
    answers = client.generate_batch(
        [source.content for source in sources],
        model=options.model,
        window=options.concurrency,
        truncate=options.truncate,
        priority="bulk" if len(sources) > AWAITED else "interactive",
    )
    try:
        async with aclosing(_in_order(answers) if options.ordered else answers) as settled:
            async for index, outcome in settled:
                _note(run, sources[index], outcome)
                if run.stopped is not None:
                    break
                report(sources[index], outcome)
    except ModelMoraError as error:
        run.stopped = error
    return run


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
