"""One call for masks over servers that break off, repeat themselves, invent and leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from modelmora.client import Everything, Failed, Ok, Outcome, Point, Prompt, Retry, Segmentation
from modelmora.client.retry import Retrier
from modelmora.client.segmenting import Parts, Segmenting
from modelmora.errors import (
    DependencyUnavailable,
    InternalError,
    InvalidInput,
    ModelMoraError,
    OutOfMemory,
    Overloaded,
    VersionNotFound,
)

HOUR = 3600.0
AWAY = DependencyUnavailable("away")
PROMPTS = {index: Prompt(points=(Point(x=index, y=0),)) for index in range(4)}


def done(version: str = "1.0.0") -> Outcome[Segmentation]:
    return Ok(Segmentation(masks=(), height=1, width=1, model="sam", version=version))


@dataclass(slots=True)
class Server:
    """Answers each request with the next of its `answers`, which may end in an error; `asked` is what came."""

    answers: list[list[tuple[int, Outcome[Segmentation]] | ModelMoraError]]
    asked: list[tuple[list[float] | Everything, str | None]] = field(default_factory=list)

    async def ask(self, some: Sequence[Prompt] | Everything, model: str | None) -> Parts:
        self.asked.append((some if isinstance(some, Everything) else [one.points[0].x for one in some], model))
        for each in self.answers.pop(0):
            if isinstance(each, ModelMoraError):
                raise each
            yield each


def call(
    server: Server, *, retries: int = 1, model: str | None = None, pauses: list[float] | None = None
) -> Segmenting:
    waited = [] if pauses is None else pauses

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    retrier = Retrier(retry=Retry(initial_s=1.0, retries=retries), sleep=sleep, clock=lambda: 0.0, dice=lambda: 1.0)
    return Segmenting(server.ask, model=model, retrier=retrier, deadline=HOUR)


async def read(parts: Parts) -> dict[int, str]:
    found: dict[int, str] = {}
    async for index, outcome in parts:
        assert index not in found
        found[index] = outcome.error.code if isinstance(outcome, Failed) else outcome.value.version
    return found


async def test_what_a_broken_stream_left_is_asked_of_the_same_version() -> None:
    server = Server([[(3, done()), (0, done()), AWAY], [(1, done()), (0, done())]])
    assert await read(call(server, model="sam").prompts(PROMPTS)) == {3: "1.0.0", 0: "1.0.0", 2: "1.0.0", 1: "1.0.0"}
    assert server.asked == [([0, 1, 2, 3], "sam"), ([1, 2], "sam@1.0.0")]


async def test_places_that_were_never_asked_and_repetitions_are_dropped() -> None:
    server = Server(
        [[(7, done()), (-1, done()), *((index, done(str(index))) for index in (0, 0, 1, 2, 3)), (1, done())]]
    )
    assert await read(call(server).prompts(PROMPTS)) == {0: "0", 1: "1", 2: "2", 3: "3"}


async def test_what_a_server_leaves_out_is_its_defect() -> None:
    with pytest.raises(InternalError, match="4 prompts were left out"):
        await read(call(Server([[]])).prompts(PROMPTS))
    some = await read(call(Server([[(0, done())]])).prompts(PROMPTS))
    assert some == {0: "1.0.0", 1: "internal", 2: "internal", 3: "internal"}


async def test_each_prompt_that_is_left_has_the_reason_it_knows_of() -> None:
    busy, torn = Failed(Overloaded("busy")), Failed(OutOfMemory("too large"))
    server = Server([[(0, busy), (1, torn), AWAY], [(0, busy), AWAY]])
    assert await read(call(server).prompts(PROMPTS)) == {
        1: "out_of_memory",
        0: "overloaded",
        2: "dependency_unavailable",
        3: "dependency_unavailable",
    }
    assert [asked for asked, _ in server.asked] == [[0, 1, 2, 3], [0, 2, 3]]


async def test_as_long_as_there_are_answers_patience_begins_anew() -> None:
    pauses: list[float] = []
    server = Server([[(0, done()), AWAY], [(0, done()), AWAY], [(0, done()), AWAY], [AWAY], [(0, done())]])
    assert len(await read(call(server, retries=2, pauses=pauses).prompts(PROMPTS))) == 4
    assert pauses == [1, 1, 1, 2]


async def test_an_error_after_the_last_answer_takes_nothing_back() -> None:
    server = Server([[*((index, done()) for index in range(4)), AWAY]])
    assert len(await read(call(server).prompts(PROMPTS))) == 4


async def test_what_concerns_the_whole_is_raised_until_something_was_answered() -> None:
    torn = InvalidInput("torn", field="image")
    with pytest.raises(InvalidInput):
        await read(call(Server([[torn]])).prompts(PROMPTS))
    gone = Server([[(0, done()), AWAY], [VersionNotFound("gone")]])
    assert await read(call(gone).prompts(PROMPTS)) == {0: "1.0.0", **dict.fromkeys((1, 2, 3), "version_not_found")}


async def test_nothing_asked_is_nothing_sent() -> None:
    server = Server([])
    assert await read(call(server).prompts({})) == {}


async def test_masks_of_everything_are_not_repeated_by_a_second_try() -> None:
    server = Server([[(0, done()), (1, done()), AWAY], [(0, done()), (1, done()), (2, done())]])
    assert await read(call(server).everything(Everything())) == dict.fromkeys(range(3), "1.0.0")
    assert server.asked == [(Everything(), None), (Everything(), "sam@1.0.0")]
    with pytest.raises(DependencyUnavailable):
        await read(call(Server([[(0, done()), AWAY], [AWAY]])).everything(Everything()))
