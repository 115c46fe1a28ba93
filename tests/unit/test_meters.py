"""What is measured of a device's memory, and when a measurement was alone."""

from __future__ import annotations

import threading
from mmap import mmap

import pytest

from runners.memory.meters import Bustle, HostMeter, meter_of
from tests.gpus import pretend
from tests.support import only_on_linux

MIB = 2**20


@only_on_linux("elsewhere nobody tells the peak of a process")
def test_the_hosts_peak_is_what_was_in_use_at_most_since_the_start() -> None:
    meter = meter_of("cpu")
    assert isinstance(meter, HostMeter)
    touched(256 * MIB).close()  # a peak before the start does not count

    before = meter.start()
    assert before is not None
    kept = touched(32 * MIB)
    touched(64 * MIB).close()
    peak, after = meter.finish()

    assert peak - before == pytest.approx(96 * MIB, abs=8 * MIB)
    assert after - before == pytest.approx(len(kept), abs=8 * MIB)


def touched(size: int) -> mmap:
    """Memory from the system itself: an allocator may answer with pages that it has kept."""
    area = mmap(-1, size)
    for _ in range(size // MIB):
        area.write(bytes(MIB))
    return area


def test_a_gpus_peak_is_what_torchs_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pretend(monkeypatch, gpus=2)
    cuda.take(100)
    cuda.take(900)
    cuda.take(-900)
    meter = meter_of("cuda:1")

    before = meter.start()
    cuda.take(50)
    cuda.take(-20)

    assert (before, meter.finish(), meter.used()) == (100, (150, 130), 130)


def test_work_that_is_alone_knows_it() -> None:
    bustle = Bustle()
    with bustle.busy() as alone:
        assert alone()
    with bustle.busy() as alone:
        assert alone()


def test_work_that_began_beside_other_work_is_not_alone() -> None:
    bustle, began, leave = Bustle(), threading.Event(), threading.Event()

    def other() -> None:
        with bustle.busy():
            began.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    began.wait(10)
    with bustle.busy() as alone:
        assert not alone()
        leave.set()
        thread.join()
        assert not alone()


def test_work_notices_what_came_and_went_meanwhile() -> None:
    bustle = Bustle()

    def other() -> None:
        with bustle.busy():
            pass

    with bustle.busy() as alone:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not alone()


def test_work_within_work_is_one_work() -> None:
    bustle = Bustle()
    with bustle.busy() as outer:
        with bustle.busy() as inner:
            assert not inner()
        assert outer()
