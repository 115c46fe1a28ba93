"""What may be committed, and in which order deliveries are worked on: for every order in which they end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelmora.ports import Delivery
from subscribers.lanes import Lanes
from subscribers.watermarks import Watermarks

PLACE = ("t", 0)


def delivery(offset: int, key: str = "", partition: int = 0) -> Delivery:
    return Delivery(topic="t", partition=partition, offset=offset, key=key.encode(), value=b"")


@given(st.data())
def test_nothing_beyond_an_open_offset_is_ever_committed(data: st.DataObject) -> None:
    offsets = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1)))
    marks, open_ = Watermarks(), set(offsets)
    for offset in offsets:
        marks.take(PLACE, offset)
    for offset in data.draw(st.permutations(offsets)):
        marks.done(PLACE, offset)
        open_.discard(offset)
        expected = min(open_) if open_ else offsets[-1] + 1
        assert marks.reached().get(PLACE) == expected


def test_what_was_committed_is_not_told_again_until_there_is_more() -> None:
    marks = Watermarks()
    marks.take(PLACE, 5)
    marks.done(PLACE, 5)
    marks.committed(marks.reached())
    assert marks.reached() == {}
    marks.take(PLACE, 6)
    assert marks.reached() == {}
    marks.done(PLACE, 6)
    assert marks.reached() == {PLACE: 7}


def test_a_partition_that_went_is_forgotten_and_may_begin_anew() -> None:
    marks = Watermarks()
    for offset in (0, 1, 2):
        marks.take(PLACE, offset)
    marks.forget([PLACE])
    marks.done(PLACE, 0)
    assert marks.reached() == {}
    marks.take(PLACE, 9)
    marks.take(PLACE, 1)  # it came back, and another had got less far
    marks.done(PLACE, 9)
    assert marks.reached() == {PLACE: 1}
    marks.done(PLACE, 1)
    assert marks.reached() == {PLACE: 2}


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 8), st.randoms())
def test_of_each_key_one_is_worked_on_at_a_time_and_in_order(keys: list[str], most: int, random: object) -> None:
    lanes, seen, running = Lanes(), {key: [] for key in "abc"}, []  # type: ignore[var-annotated]
    lanes.add([delivery(offset, key) for offset, key in enumerate(keys)])
    while len(lanes):
        chunk = lanes.chunk(most)
        assert len({one.key for one in chunk}) == len(chunk) <= most
        if chunk:
            running.append(chunk)
        else:
            assert running, "work waits although nobody works"
        if len(running) > 1 or not chunk:
            ended = random.choice(running)  # type: ignore[attr-defined]
            running.remove(ended)
            for one in ended:
                seen[one.key.decode()].append(one.offset)
            lanes.done(ended)
    for key, offsets in seen.items():
        assert offsets == [n for n, each in enumerate(keys) if each == key][: len(offsets)]


def test_messages_without_a_key_wait_for_nobody() -> None:
    lanes = Lanes()
    lanes.add([delivery(n) for n in range(5)])
    assert len(lanes.chunk(10)) == 5


def test_what_waits_of_a_partition_that_went_is_dropped() -> None:
    lanes = Lanes()
    lanes.add([delivery(0, "a"), delivery(1, "a"), delivery(0, "b", partition=1)])
    chunk = lanes.chunk(1)
    assert lanes.open_in([("t", 0)])
    lanes.drop([("t", 0)])
    assert len(lanes) == 1
    lanes.done(chunk)
    assert [one.key for one in lanes.chunk(5)] == [b"b"]
