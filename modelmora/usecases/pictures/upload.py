"""Pictures are brought: kept at once, indexed while their bringer waits, and left to the events where that fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.way import Verdict, Way
from modelmora.errors import ModelMoraError, from_code, unexpected
from modelmora.ports import Capacity, PictureRecords, Registered, Registration
from modelmora.usecases.admission import Limits
from modelmora.usecases.pictures.arrivals import Arrival, Ready, Receiving, Terms
from modelmora.usecases.pictures.indexing import Going, Indexing, Verdicts
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.spaces import Spaces

log = structlog.get_logger(__name__)

MARGIN_S = 5.0
"""So long after the time for indexing is up is a picture announced of which nothing more was heard."""
RESERVE_S = 0.25
"""Of the caller's time: what writing down and answering take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """`source` is the name that announcements are made in; `sync_s` how long indexing is waited for."""

    source: str
    sync_s: float


class Upload:
    """The use case behind every face that takes pictures to keep; a stream of them is `UploadStream`."""

    def __init__(
        self,
        receiving: Receiving,
        indexing: Indexing,
        spaces: Spaces,
        *,
        records: PictureRecords,
        capacity: Capacity,
        limits: Limits,
        settings: UploadSettings,
    ) -> None:
        self.limits = limits
        self._receiving = receiving
        self._indexing = indexing
        self._spaces = spaces
        self._records = records
        self._capacity = capacity
        self._settings = settings

    async def __call__(self, arrivals: Sequence[Arrival], terms: Terms, *, call: Call) -> list[Outcome[Kept]]:
        """One outcome each, same order: what is `Ok` is never lost, whatever fails after it.

        One registration, one embed call a space, one upsert, one record for all of them. What is `indexed` is found by
        the next search; what could not be in time is announced, and found later. Who leaves before the answer leaves it
        so that the announcement, which is held back meanwhile, becomes due. Raises Overloaded where there is no room,
        and what registering raises: then nothing was taken.
        """
        now = time.monotonic()
        deadline = min(call.deadline, now + self.limits.timeout_ms / 1e3)
        with self._capacity.permit(len(arrivals)):
            received = await self._receiving(arrivals, terms, deadline=deadline)
            ready = [outcome.value for outcome in received if isinstance(outcome, Ok)]
            taken = iter(await self._register(ready, terms))
        pairs = [(outcome.value, next(taken)) if isinstance(outcome, Ok) else (None, outcome) for outcome in received]
        until = min(now + self._settings.sync_s, deadline - RESERVE_S)
        verdicts = await self._index(pairs, call=replace(call, deadline=until)) if terms.wait else {}
        known = await self._known(pairs)
        return [_outcome(registered, verdicts, known) for _, registered in pairs]

    async def _register(self, ready: Sequence[Ready], terms: Terms) -> list[Outcome[Registered]]:
        """In one transaction with their announcements, which wait while indexing may still be under way here."""
        if not ready:
            return []
        keys = tuple(space.key for space in await self._spaces.of(terms.collection))
        hold_s = self._settings.sync_s + MARGIN_S if terms.wait else 0.0
        source = self._settings.source
        registered = await self._records.register(
            [
                Registration(picture=one.picture, spaces=keys, announce=source, hold_s=hold_s, claim=terms.wait)
                for one in ready
            ]
        )
        await self._receiving.keep([one for one, o in zip(ready, registered, strict=True) if isinstance(o, Ok)])
        return registered

    async def _index(self, pairs: Sequence[tuple[Ready | None, Outcome[Registered]]], *, call: Call) -> Verdicts:
        """Every picture once, though it was brought twice. Where keeping the verdicts fails the ways stay as they are
        until their announcement is due."""
        going: dict[str, Going] = {}
        for ready, outcome in pairs:
            if ready is not None and isinstance(outcome, Ok) and outcome.value.ways:
                picture = outcome.value.picture
                going[picture.id] = Going(picture=picture, data=Ok(ready.data), ways=outcome.value.ways)
        if not going:
            return {}
        try:
            return await self._indexing(list(going.values()), call=call)
        except Exception as cause:
            error = cause if isinstance(cause, ModelMoraError) else unexpected()
            log.warning("upload_left_to_events", request_id=call.request_id, code=error.code, exc_info=cause)
            return {}

    async def _known(self, pairs: Sequence[tuple[Ready | None, Outcome[Registered]]]) -> Mapping[str, tuple[Way, ...]]:
        """The ways of those that were there before, which are more than what was gone now."""
        ids = {o.value.picture.id for _, o in pairs if isinstance(o, Ok) and o.value.duplicate}
        if not ids:
            return {}
        try:
            return await self._records.ways(ids)
        except ModelMoraError:  # they are kept all the same
            return {}


def _outcome(
    registered: Outcome[Registered], verdicts: Verdicts, known: Mapping[str, tuple[Way, ...]]
) -> Outcome[Kept]:
    """A picture that no model takes is the bringer's error; it stays as one that failed, with its letter."""
    if isinstance(registered, Failed):
        return registered
    taken = registered.value
    ways = {way.space: way for way in known.get(taken.picture.id, ())}
    ended = {way.space: verdicts.get((way.picture_id, way.space)) for way in taken.ways}
    ways |= {way.space: _after(way, ended[way.space]) for way in taken.ways}
    refused = [verdict for verdict in ended.values() if verdict is not None and verdict.state == "rejected"]
    if refused and len(refused) == len(ways):
        return Failed(from_code(refused[0].code, refused[0].detail))
    return Ok(Kept(picture=taken.picture, ways=tuple(ways.values()), duplicate=taken.duplicate))


def _after(way: Way, verdict: Verdict | None) -> Way:
    if verdict is None:
        return way
    return replace(way, state=verdict.state, stage=verdict.stage, code=verdict.code, detail=verdict.detail)
