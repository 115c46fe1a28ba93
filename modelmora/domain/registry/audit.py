"""The chain of what was changed: each entry carries the digest of the one before it, so that tampering shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who did what to what, and how it was before and after (None: it was not there)."""

    actor: str
    action: str
    subject: str
    request_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """An entry's place and digest: what the next one follows."""

    seq: int
    digest: str


BEGINNING = Link(0, "0" * 64)
"""What the first entry follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A change in its place; `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    change: Change
    previous: str
    digest: str

    @classmethod
    def following(cls, last: Link, change: Change, *, at: datetime) -> AuditEntry:
        """The next entry of the chain; `at` has a time zone."""
        digest = digest_of(last.seq + 1, at, change, last.digest)
        return cls(seq=last.seq + 1, at=at, change=change, previous=last.digest, digest=digest)

    @property
    def link(self) -> Link:
        return Link(self.seq, self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first place where the chain does not hold."""

    seq: int
    why: Literal["changed", "missing", "reordered"]


def digest_of(seq: int, at: datetime, change: Change, previous: str) -> str:
    """The sha256 of the entry as canonical JSON: keys sorted, no spaces, UTF-8, times in UTC."""
    told = {"seq": seq, "at": at.astimezone(UTC).isoformat(), "change": asdict(change), "previous": previous}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def broken(entries: Iterable[AuditEntry], *, after: Link = BEGINNING, until: Link | None = None) -> Broken | None:
    """Where the chain breaks first, read in order from `after` on; None where it holds.

    Entries cut off its end leave no trace in the chain itself: `until`, its last link as it is kept elsewhere, shows
    it.
    """
    last = after
    for entry in entries:
        due = last.seq + 1
        if entry.seq != due:
            return Broken(seq=due, why="missing" if entry.seq > due else "reordered")
        whole = entry.digest == digest_of(entry.seq, entry.at, entry.change, last.digest)
        if entry.previous != last.digest or not whole:
            return Broken(seq=due, why="changed")
        last = entry.link
    if until is None or until == last:
        return None
    return Broken(seq=min(until.seq, last.seq + 1), why="missing" if until.seq > last.seq else "changed")
