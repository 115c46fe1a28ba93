"""Which questions about pictures may begin, so that a picture is encoded once and stays until the last one.

Who asks about a new picture while another's question has it encoded waits here and holds no lane. A picture about
which more is to be asked gets a place in the model's memory before it is encoded, and keeps it until a second after
the last answer; while all places are taken like that, the next such picture waits. A picture with one question alone
waits for nobody: where no place is left it is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from modelmora.domain.models import ModelSpec
from runners.batching.jobs import Job, JobQueue, Key
from runners.payload import Parcel
from runners.provider import Loaded

SITTING_S = 1.0
"""So long after an answer a picture keeps its place for the question that was announced."""


class Places(Protocol):
    """Room for what was computed of pictures, named by their digests."""

    @property
    def places(self) -> int:
        """How many there are in all."""
        ...

    def keeps(self, digest: bytes) -> bool:
        """Whether it need not be computed."""
        ...

    def has_place(self, busy: Collection[bytes]) -> bool:
        """Whether one more can be kept when all go that are not `busy`."""
        ...

    def reserve(self, digest: bytes, busy: Collection[bytes]) -> None:
        """Sets a place aside, for which others than the `busy` go; where there is none it will not be kept."""
        ...

    def release(self, digest: bytes) -> None:
        """Gives back a place that was not used."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """What a model does besides that keeps what it computed of pictures for later questions."""

    pictures: Places


class Sittings:
    """Looks at the batcher's queues, of which each picture has its own; `peek` gives a model that is in memory."""

    def __init__(self, queues: Mapping[Key, JobQueue], peek: Callable[[ModelSpec], Loaded | None]) -> None:
        self._queues = queues
        self._peek = peek

    def waiting(self, key: Key, queue: JobQueue) -> int:
        """Of the queue, or of those of all pictures together, since a model has one limit for them."""
        return sum(other.waiting() for _, other in self._of(key)) if key[1] == "segment" else queue.waiting()

    def joined(self, key: Key, queue: JobQueue, job: Job) -> None:
        """How long its queue stays at most without any job: those of a picture as long as the sitting."""
        if key[1] != "segment":
            queue.idle_s = float("inf")
            return
        own = [other for other_key, other in self._of(key) if _picture(other_key) == _picture(key)]
        sittings = set[str]().union(*(other.sittings for other in own))
        (sittings.add if _followed(job) else sittings.discard)(_sitting(job))
        for other in own:
            other.sittings, other.idle_s = frozenset(sittings), SITTING_S if sittings else 0.0

    def held(self) -> dict[Key, float]:
        """Queues of which nothing may begin yet, each with the moment at which that changes by itself."""
        models: dict[tuple[Any, ...], dict[Key, JobQueue]] = {}
        for key, queue in self._queues.items():
            if key[1] == "segment":
                models.setdefault(key[:2], {})[key] = queue
        return {key: until for queues in models.values() for key, until in self._held_of(queues)}

    def reserve(self, key: Key, queue: JobQueue) -> None:
        """A batch of this queue begins."""
        picture, memory = _picture(key), self._memory(key, queue)
        if memory is not None and _encodes(key, picture) and not memory.keeps(picture):
            memory.reserve(picture, self._busy(key))

    def release(self, key: Key, queue: JobQueue) -> None:
        """It has ended. One that did not bring the picture reserved nothing, and another's may still be under way."""
        memory = self._memory(key, queue)
        if memory is not None and _encodes(key, _picture(key)):
            memory.release(_picture(key))

    def _held_of(self, queues: Mapping[Key, JobQueue]) -> Iterator[tuple[Key, float]]:
        """Of one model's; infinite: until a batch ends. Its pictures are looked at once, since they may be many."""
        waiting = {key: queue for key, queue in queues.items() if queue.waiting()}
        memory = next(filter(None, (self._memory(key, queue) for key, queue in waiting.items())), None)
        if memory is None:
            return
        encoding = {_picture(key) for key, queue in queues.items() if queue.running and _encodes(key, _picture(key))}
        has_place = memory.has_place({_picture(key) for key in queues})
        unused = (queue for queue in queues.values() if not queue.waiting() and not queue.running)
        place_at = min((queue.unused_since + queue.idle_s for queue in unused), default=float("inf"))
        for key, queue in waiting.items():
            picture = _picture(key)
            if not picture or memory.keeps(picture):
                continue
            if picture in encoding:
                yield key, float("inf")
            elif not has_place and _encodes(key, picture) and any(map(_followed, queue.jobs())):
                yield key, place_at

    def _busy(self, key: Key) -> set[bytes]:
        """Pictures of the model with questions that wait, run, or are announced: they have a queue."""
        return {_picture(other) for other, _ in self._of(key)}

    def _of(self, key: Key) -> list[tuple[Key, JobQueue]]:
        return [(other, queue) for other, queue in self._queues.items() if other[:2] == key[:2]]

    def _memory(self, key: Key, queue: JobQueue) -> Places | None:
        """Where the model keeps this picture; None where it does not, or is not here."""
        loaded = self._peek(queue.spec) if _picture(key) else None
        return loaded.pictures if isinstance(loaded, Remembers) and loaded.pictures.places else None


def _sitting(job: Job) -> str:
    """Whose question it is: the last of one is not the end of another's."""
    return str(job.payload.options.get("sitting", "")) if isinstance(job.payload, Parcel) else ""


def _followed(job: Job) -> bool:
    return isinstance(job.payload, Parcel) and bool(job.payload.options.get("more"))


def _picture(key: Key) -> bytes:
    """Whose digest it is; empty for other tasks, and for a picture that is not to be kept."""
    return cast("tuple[bytes, bool]", key[2])[0] if key[1] == "segment" else b""


def _encodes(key: Key, picture: bytes) -> bool:
    """Whether its jobs bring the pixels of this picture."""
    return key[2] == (picture, True)
