"""Which measurements of the runners are worth remembering, and under which name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import ModelSpec
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Footprint, Holding, WorkerView
from wiring.footprints import FootprintMemory, measured

CLIP = ModelSpec(name="clip", version="1.0.0", type="embedding", provider="noop", source="bundled:noop")
SPECS = {CLIP.key: CLIP}


def view(*holdings: Holding, device: str = "cpu") -> WorkerView:
    by_model = {holding.model: holding for holding in holdings}
    return WorkerView(group="default", worker="default-1-1", pid=1, ready=True, device=device, holdings=by_model)


def holding(size: int, model: str = CLIP.key) -> Holding:
    return Holding(model=model, state="loaded", bytes=size)


def footprint(size: int, *, device: str = "cpu", precision: str = "fp32") -> Footprint:
    return Footprint(model=CLIP.key, device=device, precision=precision, bytes=size)


def test_of_several_workers_the_largest_counts() -> None:
    assert measured([view(holding(600)), view(holding(650)), view(holding(640))], SPECS) == [footprint(650)]


def test_workers_on_other_devices_are_measured_each_for_itself() -> None:
    there = view(holding(700), device="cuda:0")
    assert measured([view(holding(600)), there], SPECS) == [footprint(600), footprint(700, device="cuda:0")]


def test_a_model_that_declares_its_device_stands_under_it() -> None:
    specs = {CLIP.key: replace(CLIP, device="cpu", precision="bf16")}
    assert measured([view(holding(300), device="cuda:0")], specs) == [footprint(300, precision="bf16")]


def test_what_is_not_loaded_not_measured_or_not_declared_is_left_out() -> None:
    loading = replace(holding(600), state="loading")
    assert measured([view(loading), view(holding(0)), view(holding(600, "clip@1.0.0+bf16.copy"))], SPECS) == []


class Away:
    """A store that does not answer."""

    async def remember(self, footprint: Footprint) -> None:
        raise DependencyUnavailable("the database is away")

    async def all(self) -> Sequence[Footprint]:
        raise DependencyUnavailable("the database is away")


class Ours:
    """A lease that is always given."""

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        return 1

    async def release(self, name: str, holder: str) -> None:
        """Nothing to give back."""


async def test_while_the_store_is_away_nothing_is_known() -> None:
    assert list(await FootprintMemory(Away(), Ours(), lambda: Catalogue((CLIP,))).of_group("default")) == []
