"""How an open_clip network is loaded and run: byte by byte, thread by thread, layer by layer, device by device."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from load.random_weights import write_random
from modelmora.domain.models import Task
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, OutOfMemory
from runners.networks import exhaustion
from runners.networks.attention import MaskedAttention, straighten
from runners.networks.cores import use_threads
from runners.networks.layers import layers_of, telling
from runners.networks.open_clip.network import OpenClip
from runners.networks.transfer import SideStreams
from runners.open_clip import OpenClipProvider
from runners.provider import Tell
from tests.models.conftest import small, spec
from tests.support import only_on_linux

ROOT = Path(__file__).parents[2]
WEIGHTS = "open_clip_model.safetensors"
TASKS: tuple[Task, ...] = ("embed_image", "embed_text")


def loaded(folder: Path, *, threads: int = 2, tell: Tell | None = None, **changes: Any) -> OpenClip:
    return OpenClipProvider().load(spec(**changes), folder, device="cpu", threads=threads, tell=tell)


def noise(count: int, size: int = 64) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def tokens(count: int, length: int = 32) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(7)
    rows = rng.integers(1, 49405, (count, length), dtype=np.int32)
    rows[:, 0], rows[:, -1] = 49406, 49407
    return list(rows)


# --- threads and lanes -------------------------------------------------------------------------------------------


def threads_seen(model: OpenClip, **options: Any) -> int:
    """How many threads the calling thread's operations use after a batch."""
    model.embed("embed_text", tokens(1), **options)
    return torch.get_num_threads()


def test_a_batch_uses_as_many_threads_as_it_was_given_and_the_model_s_own_by_default(
    written: Callable[..., Path],
) -> None:
    model = loaded(written(), threads=2)
    with ThreadPoolExecutor(1) as lane:
        seen = [lane.submit(threads_seen, model, **given).result() for given in ({"threads": 1}, {}, {"threads": 2})]
    assert seen == [1, 2, 2]


def test_lanes_do_not_change_each_others_threads(written: Callable[..., Path]) -> None:
    model = loaded(written(), threads=2)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        assert one.submit(threads_seen, model, threads=1).result() == 1
        assert other.submit(threads_seen, model, threads=2).result() == 2
        assert one.submit(torch.get_num_threads).result() == 1


def test_a_lane_that_has_not_computed_yet_keeps_the_threads_it_was_given() -> None:
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(use_threads, 1).result()
        other.submit(use_threads, 2).result()
        assert one.submit(torch.get_num_threads).result() == 1


def test_the_number_of_threads_is_set_only_when_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = torch.get_num_threads(), list[int]()
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    use_threads(before)
    use_threads(0)
    assert calls == []
    use_threads(before + 1)
    assert calls == [before + 1]


@pytest.mark.parametrize("task", TASKS)
def test_batches_side_by_side_give_what_they_give_alone(task: Task, written: Callable[..., Path]) -> None:
    model = loaded(written(small(vision={"layers": 4, "width": 128})))
    items: list[Any] = noise(12) if task == "embed_image" else tokens(12)
    batches = [items[:5], items[5:], items[2:9]]
    alone = [model.embed(task, batch, threads=1) for batch in batches]
    with ThreadPoolExecutor(3) as lanes:
        together = list(lanes.map(lambda batch: model.embed(task, batch, threads=1), batches * 8))
    for index, rows in enumerate(together):
        np.testing.assert_array_equal(rows, alone[index % 3])


@pytest.mark.parametrize("task", TASKS)
def test_an_item_gets_the_same_vector_alone_and_in_any_batch(task: Task, written: Callable[..., Path]) -> None:
    model = loaded(written(small(vision={"image_size": 224, "patch_size": 32, "layers": 6, "width": 256})))
    items: list[Any] = noise(16, 224) if task == "embed_image" else tokens(16)
    alone = np.concatenate([model.embed(task, [item], threads=1) for item in items])
    for size in (2, 3, 8, 16):
        for threads in (1, 2):
            together = np.concatenate(
                [model.embed(task, items[start : start + size], threads=threads) for start in range(0, 16, size)]
            )
            assert np.abs(together - alone).max() <= 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)  # 605 MB are drawn and written first
def test_vit_b_32_gives_the_same_vector_alone_and_in_a_batch(tmp_path: Path) -> None:
    model = loaded(write_random("ViT-B-32", tmp_path / "vit"))
    items = noise(16, 224)
    alone = np.concatenate([model.embed("embed_image", [item]) for item in items])
    assert np.abs(model.embed("embed_image", items) - alone).max() <= 1e-5
    assert np.abs(model.embed("embed_image", items, threads=1) - alone).max() <= 1e-5


def test_a_row_that_is_not_finite_leaves_its_neighbours_alone(written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    batch = tokens(3)
    weights["token_embedding.weight"][int(batch[1][5])] = float("nan")
    expected = loaded(folder).embed("embed_text", [batch[0], batch[2]])
    save_file(weights, folder / WEIGHTS)
    rows = loaded(folder).embed("embed_text", batch)
    assert np.isfinite(rows).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_allclose(rows[[0, 2]], expected, atol=1e-6)


# --- attention under a mask --------------------------------------------------------------------------------------


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(3)
    return nn.MultiheadAttention(32, 4, **{"batch_first": True, **options}).eval().requires_grad_(False)


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


@pytest.mark.parametrize("mask", [None, causal(7), causal(7).expand(8, 7, 7)])
def test_straightened_attention_gives_what_the_original_gives(mask: torch.Tensor | None) -> None:
    straight, original, x = attention(), attention(), torch.randn(2, 7, 32)
    straighten(straight)
    assert isinstance(straight, MaskedAttention)
    for query, key in ((x, x), (x, torch.randn(2, 7, 32))):
        ours = straight(query, key, key, need_weights=False, attn_mask=mask)[0]
        theirs = original(query, key, key, need_weights=False, attn_mask=mask)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert straight.state_dict().keys() == original.state_dict().keys()


@pytest.mark.parametrize("options", [{"batch_first": False}, {"add_bias_kv": True}, {"kdim": 16}, {"dropout": 0.1}])
def test_attention_of_another_kind_is_left_as_it_is(options: dict[str, Any]) -> None:
    other = attention(**options)
    straighten(other)
    assert type(other) is nn.MultiheadAttention


def test_the_text_tower_copies_no_weights_while_it_runs(written: Callable[..., Path]) -> None:
    model = loaded(written(), precision="bf16")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        model.embed("embed_text", tokens(3))
    copied = [event.input_shapes for event in profile.key_averages(group_by_input_shape=True) if "copy_" in event.key]
    assert copied
    assert not [shapes for shapes in copied if [32, 64, 192] in shapes]  # tokens x width x three projections


# --- progress ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        (small(), {"embed_image": 2, "embed_text": 2}),
        (small(custom_text=True), {"embed_image": 2, "embed_text": 2}),
        (small(vision={"layers": [1, 2, 1, 1], "width": 16, "patch_size": None}), {"embed_image": 5, "embed_text": 2}),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_the_layers_of_the_tower_that_runs_are_told_one_by_one(
    task: Task, architecture: dict[str, Any], layers: dict[Task, int], written: Callable[..., Path]
) -> None:
    model, told = loaded(written(architecture)), list[tuple[int, int]]()
    expected = model.embed(task, [model.sample(task)])
    rows = model.embed(task, [model.sample(task)], tell=lambda *step: told.append(step))
    assert told == [(done, layers[task]) for done in range(1, layers[task] + 1)]
    np.testing.assert_array_equal(rows, expected)


def hooks(model: OpenClip) -> int:
    return sum(len(module._forward_hooks) for module in model._model.modules())


def test_hooks_stand_only_while_somebody_asks_and_go_when_the_batch_fails(written: Callable[..., Path]) -> None:
    model, seen = loaded(written()), list[int]()
    model.embed("embed_text", tokens(1), tell=lambda *_: seen.append(hooks(model)))
    assert seen == [2, 2]
    with pytest.raises(IndexError):
        model.embed("embed_text", [np.full(32, 10**6, np.int32)], tell=lambda *_: None)
    assert hooks(model) == 0


def test_another_lanes_batch_does_not_count() -> None:
    tower, told = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), list[tuple[int, int]]()
    layer = nn.ModuleList([tower])
    with telling(layer_holder(layer), lambda *step: told.append(step)):
        thread = threading.Thread(target=lambda: tower(torch.zeros(1, 2)))
        thread.start()
        thread.join()
        assert told == []
        tower(torch.zeros(1, 2))
    assert told == [(1, 1)]


def layer_holder(layers: nn.ModuleList) -> nn.Module:
    holder = nn.Module()
    holder.layers = layers
    return holder


def test_a_vit_b_32_has_twelve_layers_in_each_tower() -> None:
    import open_clip

    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    assert [len(layers_of(tower)) for tower in (model.visual, model.transformer)] == [12, 12]


# --- loading -----------------------------------------------------------------------------------------------------


def test_loading_tells_its_bytes_up_to_all_of_them(written: Callable[..., Path]) -> None:
    folder, told = written(), list[tuple[int, int]]()
    loaded(folder, tell=lambda *step: told.append(step))
    total = sum(t.nbytes for t in load_file(folder / WEIGHTS).values())
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert len(told) > 20
    assert [done for done, _ in told] == sorted(done for done, _ in told)


PEAK = """
import sys, threading, time
from pathlib import Path
from runners.open_clip import PROVIDER, OpenClipProvider
from modelmora.domain.models import ModelSpec
PROVIDER.prepare()

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

asked = {"name": "m", "version": "1.0.0", "type": "embedding", "provider": "open_clip", "source": "file:m"}
spec = ModelSpec(**asked, precision=sys.argv[2])
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model = PROVIDER.load(spec, Path(sys.argv[1]), device="cpu", threads=1)
print(status("VmHWM") - before, model.weight_bytes)
"""


@only_on_linux("elsewhere nobody tells the peak of a process")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_not_in_memory_twice_while_it_loads(precision: str, written: Callable[..., Path]) -> None:
    deep = small(vision={"width": 768, "layers": 16}, text={"width": 128, "heads": 4, "layers": 2})
    folder = written(deep)
    stored = (folder / WEIGHTS).stat().st_size
    told = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), precision], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    peak, weight_bytes = (int(word) for word in told[-1].split())  # log lines come before
    assert stored > 400e6
    assert weight_bytes >= (0.99 if precision == "fp32" else 0.5) * stored
    assert peak <= weight_bytes + 0.3 * stored


def test_numbers_of_a_kind_that_no_network_here_has_are_refused(written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "visual.proj": weights["visual.proj"].to(torch.float8_e4m3fn)}, folder / WEIGHTS)
    with pytest.raises(ArtifactCorrupt, match=r"visual.proj holds F8_E4M3"):
        loaded(folder)


def test_an_auto_without_a_decision_is_loaded_in_fp32(written: Callable[..., Path]) -> None:
    assert loaded(written(), precision="auto").precision == "fp32"


def test_a_precision_the_device_cannot_do_is_refused_before_anything_is_read(written: Callable[..., Path]) -> None:
    folder = written()
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match="torch can do fp32, bf16, fp16 on cpu"):
        loaded(folder, precision="int8")


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cause",
    [
        torch.OutOfMemoryError("CUDA ran out"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_every_way_to_run_out_of_memory_is_one_error(cause: Exception, written: Callable[..., Path]) -> None:
    model = loaded(written())

    class Exhausted:
        def run(self, batch: Any, compute: Any) -> NDArray[np.float32]:
            raise cause

    model._transfer = Exhausted()
    with pytest.raises(OutOfMemory, match=r"a batch of 3 for tested@1.0.0 does not fit into the memory of cpu"):
        model.embed("embed_text", tokens(3))


def test_the_cpus_own_allocator_is_understood() -> None:
    with pytest.raises(OutOfMemory), exhaustion.told_as_one("too large"):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass_as_they_are(written: Callable[..., Path]) -> None:
    with pytest.raises(RuntimeError, match="unrelated"), exhaustion.told_as_one("too large"):
        raise RuntimeError("unrelated")


def test_what_the_failed_batch_held_is_let_go_with_it() -> None:
    held: list[Any] = []

    class Large:
        pass

    def compute() -> None:
        import weakref

        large = Large()
        held.append(weakref.ref(large))
        raise MemoryError

    with pytest.raises(OutOfMemory), exhaustion.told_as_one("too large"):
        compute()
    assert held[0]() is None


# --- CUDA, with its seams faked: what is asked of the device, not what a device does -----------------------------


class FakeCuda:
    """Streams that note, per thread, what was done on which."""

    def __init__(self) -> None:
        self.streams: list[Any] = []
        self.current: dict[int, list[Any]] = {}
        self.said: list[str] = []

    def Stream(self, *, device: str) -> Any:
        cuda = self

        class Stream:
            name = f"stream {len(cuda.streams)} of {device}"

            def synchronize(self) -> None:
                cuda.said.append(f"wait for {self.name}")

        self.streams.append(Stream())
        return self.streams[-1]

    @contextmanager
    def stream(self, stream: Any) -> Any:
        self.current.setdefault(threading.get_ident(), []).append(stream.name)
        self.said.append(f"on {stream.name}")
        yield
        self.said.append("off")


def fake_pinned(cuda: FakeCuda) -> Callable[..., torch.Tensor]:
    def pinned(shape: Any, dtype: torch.dtype) -> torch.Tensor:
        cuda.said.append(f"pinned {tuple(shape)} {dtype}")
        return torch.empty(tuple(shape), dtype=dtype)

    return pinned


def test_a_batch_goes_to_the_gpu_and_back_through_pinned_memory_on_its_threads_own_stream() -> None:
    cuda = FakeCuda()
    streams = SideStreams("cpu", cuda=cuda, pinned=fake_pinned(cuda))  # the tensors themselves stay here
    batch = noise(3, 4)

    def compute(stacked: torch.Tensor) -> torch.Tensor:
        cuda.said.append("compute")
        return stacked.float().mean(dim=(1, 2))

    rows = streams.run(batch, compute)

    np.testing.assert_allclose(rows, np.stack(batch).mean(axis=(1, 2)), rtol=1e-5)
    assert cuda.said == [
        "pinned (3, 4, 4, 3) torch.uint8",
        "on stream 0 of cpu",
        "compute",
        "pinned (3, 3) torch.float32",
        "off",
        "wait for stream 0 of cpu",
    ]


def test_pixels_that_came_read_only_over_the_wire_are_taken_without_a_warning() -> None:
    cuda = FakeCuda()
    streams = SideStreams("cpu", cuda=cuda, pinned=fake_pinned(cuda))
    batch = [np.frombuffer(item.tobytes(), np.uint8).reshape(item.shape) for item in noise(2, 4)]
    torch.set_warn_always(True)  # else once a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = streams.run(batch, lambda stacked: stacked.float())
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(rows, np.stack(batch))


class LastOps(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch declares no types here
    """Whether torch was asked for anything since a moment."""

    asked = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked = True
        return func(*args, **(kwargs or {}))


def test_a_device_is_waited_for_after_everything_that_loading_asks_of_it(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed on the default stream afterwards the streams of the lanes would not wait for."""
    waited, folder = list[str](), written()
    with LastOps() as ops:  # type: ignore[no-untyped-call] # as above

        def settle(device: str) -> None:
            waited.append(device)
            ops.asked = False

        monkeypatch.setattr("runners.networks.open_clip.network.settle", settle)
        loaded(folder)
        assert (waited, ops.asked) == (["cpu"], False)


def test_each_thread_has_one_stream_of_its_own() -> None:
    cuda = FakeCuda()
    streams = SideStreams("cpu", cuda=cuda, pinned=fake_pinned(cuda))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for lane in (one, other, one):
            lane.submit(streams.run, noise(1, 4), lambda stacked: stacked.float()).result()
    assert len(cuda.streams) == 2
    assert sorted(len(names) for names in cuda.current.values()) == [1, 2]
    assert all(len(set(names)) == 1 for names in cuda.current.values())


def test_a_network_gives_the_same_vectors_through_streams(written: Callable[..., Path]) -> None:
    model, cuda = loaded(written()), FakeCuda()
    expected = [model.embed("embed_image", noise(3)), model.embed("embed_text", tokens(3))]
    model._transfer = SideStreams("cpu", cuda=cuda, pinned=fake_pinned(cuda))
    np.testing.assert_array_equal(model.embed("embed_image", noise(3)), expected[0])
    np.testing.assert_array_equal(model.embed("embed_text", tokens(3)), expected[1])
