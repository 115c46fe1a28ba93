"""Which answers the benchmark counts."""

from __future__ import annotations

from load.bench.recorder import MAX_FAILURES, Recorder


def a_recorder(window_s: float = 10.0) -> Recorder:
    return Recorder(callers=2, begun=100.0, lead_s=1.0, window_s=window_s)


def test_nothing_counts_during_the_lead_in() -> None:
    recorder = a_recorder()
    assert [recorder.answer(100.0, 100.5) for _ in range(5)] == [None] * 5
    assert recorder.latencies_s == []


def test_the_window_waits_until_every_caller_was_answered_once() -> None:
    recorder = a_recorder()
    assert [recorder.answer(100.0, 105.0) for _ in range(3)] == [None, None, "open"]


def test_the_window_holds_whole_bursts_and_no_part_of_one() -> None:
    """Batches of three, a second apart, in a window of two and a half seconds: three bursts, nine answers."""
    recorder = a_recorder(window_s=2.5)
    bursts = [100.5, 101.5, 102.5, 103.5, 104.5, 105.5]
    events = [recorder.answer(at - 1.0, at + place / 1000) for at in bursts for place in range(3)]
    assert [(place, event) for place, event in enumerate(events) if event] == [(3, "open"), (12, "close")]
    assert len(recorder.latencies_s) == 9
    assert recorder.closed is not None
    assert recorder.opened is not None
    assert recorder.closed - recorder.opened == 3.0


def test_answers_after_the_window_are_not_counted() -> None:
    recorder = a_recorder()
    for at in (101.1, 101.2, 101.3, 111.4, 111.5):
        recorder.answer(at - 0.1, at)
    assert recorder.over
    assert len(recorder.latencies_s) == 1


def test_a_failure_counts_whenever_it_happens() -> None:
    recorder = a_recorder()
    recorder.failure("503")
    for at in (101.1, 101.2, 101.3, 111.4):
        recorder.answer(at - 0.1, at)
    recorder.failure("503")
    recorder.failure("reset")
    assert (recorder.failures, recorder.errors) == (3, ["503", "reset"])


def test_a_server_that_only_fails_is_left_alone_in_the_end() -> None:
    recorder = a_recorder()
    for _ in range(MAX_FAILURES):
        assert not recorder.over
        recorder.failure("connection refused")
    assert recorder.over
