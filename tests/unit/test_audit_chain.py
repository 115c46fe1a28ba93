"""The audit's chain: whatever is changed, taken out, put in or moved shows where."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.domain.registry.audit import BEGINNING, AuditEntry, Broken, Change, Link, broken, digest_of

NOW = datetime(2026, 5, 4, 3, 2, 1, 5, tzinfo=UTC)


def chain(length: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for number in range(length):
        change = Change(
            actor="ann", action="register", subject=f"m@1.{number}.0", request_id=f"r{number}", after={"row": number}
        )
        last = entries[-1].link if entries else BEGINNING
        entries.append(AuditEntry.following(last, change, at=NOW + timedelta(seconds=number)))
    return entries


def test_each_entry_follows_the_one_before() -> None:
    first, second, third = chain(3)
    assert (first.seq, first.previous) == (1, BEGINNING.digest)
    assert (second.previous, third.previous) == (first.digest, second.digest)
    assert broken([first, second, third]) is None
    assert broken([third], after=second.link) is None


@pytest.mark.parametrize(
    "forged",
    [
        lambda entry: replace(entry, change=replace(entry.change, actor="bob")),
        lambda entry: replace(entry, change=replace(entry.change, after={"row": 99})),
        lambda entry: replace(entry, change=replace(entry.change, before={})),
        lambda entry: replace(entry, at=entry.at + timedelta(microseconds=1)),
        lambda entry: replace(entry, digest="0" * 64),
        lambda entry: replace(entry, previous="0" * 64),
        lambda entry: AuditEntry.following(BEGINNING, entry.change, at=entry.at),
    ],
)
def test_a_changed_entry_shows(forged: object) -> None:
    entries = chain(4)
    entries[2] = forged(entries[2])  # type: ignore[operator] # each is a function
    found = broken(entries)
    assert found is not None
    assert found.seq == 3


def test_a_forger_who_makes_the_entry_whole_again_breaks_the_next() -> None:
    entries = chain(4)
    change = replace(entries[1].change, actor="bob")
    entries[1] = AuditEntry.following(entries[0].link, change, at=entries[1].at)
    assert broken(entries) == Broken(seq=3, why="changed")


def test_entries_cut_off_the_end_show_against_the_last_link() -> None:
    entries = chain(4)
    assert broken(entries, until=entries[-1].link) is None
    assert broken(entries[:2], until=entries[-1].link) == Broken(seq=3, why="missing")
    assert broken([], until=entries[-1].link) == Broken(seq=1, why="missing")
    assert broken(entries, until=Link(4, "0" * 64)) == Broken(seq=4, why="changed")
    assert broken(entries, until=entries[1].link) == Broken(seq=2, why="changed")


@given(st.integers(2, 6), st.data())
def test_an_entry_taken_out_or_moved_shows(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    gone = data.draw(st.integers(0, length - 2))
    assert broken(entries[:gone] + entries[gone + 1 :]) == Broken(seq=gone + 1, why="missing")
    swapped = [*entries]
    swapped[gone], swapped[gone + 1] = swapped[gone + 1], swapped[gone]
    assert broken(swapped) == Broken(seq=gone + 1, why="missing")
    assert broken([*entries, entries[-1]]) == Broken(seq=length + 1, why="reordered")


def test_the_digest_does_not_depend_on_the_order_of_keys_nor_on_the_time_zone() -> None:
    one = Change(actor="ann", action="patch", subject="m", request_id="r", after={"a": 1, "b": "ü"})
    another = replace(one, after={"b": "ü", "a": 1})
    here = NOW.astimezone(timezone(timedelta(hours=2)))
    assert AuditEntry.following(BEGINNING, one, at=NOW).digest == digest_of(1, here, another, BEGINNING.digest)
