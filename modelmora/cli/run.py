"""A run of `modelmora embed`: sources in, outcomes out, stopping when the server is the problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from modelmora.cli.sources import Source
from modelmora.client import Client, Embedding, Failed, InputError, InternalError, ModelMoraError, Ok, Outcome

Report: TypeAlias = Callable[[Source, Outcome[Embedding]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to embed; `ordered` reports in the order of the sources instead of as they are done."""

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
    """Embeds every source, reporting each as it is settled."""
    run = Run()
    answers = client.embed_many(
        [source.content for source in sources],
        model=options.model,
        concurrency=options.concurrency,
        ordered=options.ordered,
        truncate=options.truncate,
        priority="bulk" if len(sources) > options.concurrency else "interactive",
    )
    async with aclosing(answers):
        async for index, outcome in answers:
            match outcome:
                case Ok(embedding):
                    run.done[sources[index]] = embedding
                case Failed(error) if _is_of_the_item(error):
                    run.failed[sources[index]] = error
                case Failed(error):
                    run.stopped = error
                    return run
            report(sources[index], outcome)
    return run


def _is_of_the_item(error: ModelMoraError) -> bool:
    """Another picture may fare better; with an absent server, model or permission it would not."""
    return isinstance(error, InputError | InternalError)
