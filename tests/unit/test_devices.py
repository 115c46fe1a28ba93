"""What a worker gets of the machine, and where its models go; GPUs are pretended."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from modelmora.domain.models import GroupSpec
from runners import devices
from runners.devices import Place, Share, place, share_of
from tests.gpus import pretend

GIB = 2**30
GPUS = ("cuda:0", "cuda:1", "cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and 100 GiB, whatever there is."""
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(devices, "total_memory", lambda: 100 * GIB)


@pytest.mark.usefixtures("machine")
def test_what_groups_do_not_declare_is_shared_out_equally() -> None:
    groups = [GroupSpec(name="a", workers=2), GroupSpec(name="b", workers=2)]

    share = share_of(groups[0], groups, 0, memory_fraction=0.8)

    assert (share.threads, share.budget("cpu"), share.gpu) == (4, 20 * GIB, None)


@pytest.mark.usefixtures("machine")
def test_what_a_group_declares_is_divided_by_its_workers() -> None:
    group = GroupSpec(workers=2, cpu=6.0, memory_bytes=10 * GIB)

    share = share_of(group, [group], 1, memory_fraction=0.5)

    assert (share.threads, share.budget("cpu")) == (3, 5 * GIB)


@pytest.mark.usefixtures("machine")
def test_a_worker_gets_its_gpu_by_its_place_in_the_group() -> None:
    group = GroupSpec(workers=3, gpus=(0, 2))

    assert [share_of(group, [group], index, memory_fraction=0.5).gpu for index in range(3)] == [0, 2, 0]


@pytest.mark.usefixtures("machine")
def test_the_declared_memory_of_a_group_with_gpus_is_the_gpus() -> None:
    group = GroupSpec(workers=2, gpus=(1,), memory_bytes=8 * GIB)

    share = share_of(group, [group], 0, memory_fraction=0.5)

    assert (share.budget("cuda:1"), share.budget("cpu")) == (4 * GIB, 25 * GIB)


@pytest.mark.usefixtures("machine")
def test_a_gpu_without_a_declared_budget_is_shared_by_the_workers_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2, memory=40 * GIB)
    groups = [GroupSpec(name="a", workers=2, gpus=(0, 1)), GroupSpec(name="b", workers=1, gpus=(0,))]

    first, second = (share_of(groups[0], groups, index, memory_fraction=0.5) for index in range(2))

    assert (first.budget("cuda:0"), second.budget("cuda:1")) == (10 * GIB, 20 * GIB)


def test_a_gpus_memory_is_not_known_before_torch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    assert Share(threads=1, budget_bytes=1, gpu=0).budget("cuda:0") == 0


def test_the_devices_of_a_machine_are_found_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert devices.found() is None

    pretend(monkeypatch, gpus=2)
    assert devices.found() == GPUS
    pretend(monkeypatch, mps=True)
    assert devices.found() == ("mps", "cpu")
    pretend(monkeypatch)
    assert devices.found() == ("cpu",)


@pytest.mark.parametrize(
    ("declared", "gpu", "there", "device"),
    [
        ("auto", 1, GPUS, "cuda:1"),
        ("auto", None, GPUS, "cpu"),
        ("auto", None, ("mps", "cpu"), "mps"),
        ("auto", None, ("cpu",), "cpu"),
        ("auto", None, None, "cpu"),
        ("cpu", 1, GPUS, "cpu"),
        ("cuda", 1, GPUS, "cuda:1"),
        ("cuda", None, GPUS, "cuda:0"),
        ("cuda:0", 1, GPUS, "cuda:0"),
        ("cuda:7", None, None, "cuda:7"),
    ],
)
def test_a_model_goes_where_it_declares(
    declared: str, gpu: int | None, there: tuple[str, ...] | None, device: str
) -> None:
    assert place(declared, gpu, there) == Place(device)


@pytest.mark.parametrize(
    ("declared", "gpu", "why"),
    [
        ("auto", 0, "there is no cuda:0, only cpu"),
        ("cuda:3", None, "there is no cuda:3, only cpu"),
        ("mps", None, "there is no mps, only cpu"),
    ],
)
def test_a_device_that_is_not_there_falls_back_to_the_cpu_and_says_why(
    declared: str, gpu: int | None, why: str
) -> None:
    assert place(declared, gpu, ("cpu",)) == Place("cpu", why)


def test_mps_has_no_memory_of_its_own() -> None:
    assert [devices.memory_home(device) for device in ("mps", "cpu", "cuda:1")] == ["cpu", "cpu", "cuda:1"]


def test_a_release_empties_torchs_cache_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pretend(monkeypatch, gpus=1)
    devices.release()
    assert cuda.emptied == 1

    cuda.count = 0
    devices.release()
    assert cuda.emptied == 1


FAULTS = """
import resource, sys, threading, numpy
from runners import devices
if sys.argv[1] == "keep":
    devices.keep_heap()
def layers():
    for _ in range(10):
        numpy.ones(10_000_000, dtype=numpy.float32)  # 40 MB, as activations of a batch may be
def lane():
    layers()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=lane)
thread.start()
thread.join()
held = devices.resident()
devices.trim()
print(held - devices.resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_kept_heap_is_used_again_without_the_kernel_and_given_back_when_trimmed() -> None:
    def counted(how: str) -> list[int]:
        told = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
        return [int(line) for line in told.stdout.split()]

    (faults, freed), (anew, _) = counted("keep"), counted("leave")
    assert faults < 50 < anew
    assert freed >= 36 * 2**20
