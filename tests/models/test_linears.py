"""Packed linear layers beside torch's own: the same numbers, at most a rounding apart."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock

from runners.networks import linears
from runners.networks.linears import PackedAttention, PackedLinear, pack, pack_linears, packed_bytes, packing_pays


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "packing_pays", lambda dtype: True)


def blocks(count: int = 2, *, width: int = 64, **options: bool) -> torch.nn.ModuleList:
    made = [ResidualAttentionBlock(width, 4, **options) for _ in range(count)]
    return torch.nn.ModuleList(made).eval().requires_grad_(False)


def through(network: torch.nn.ModuleList, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    for block in network:
        x = block(x, attn_mask=mask)
    return x


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("items", [1, 3, 16])
def test_a_packed_block_computes_what_the_block_does(masked: bool, items: int, paying: None) -> None:
    network, x = blocks(), torch.randn(items, 7, 64)
    mask = torch.full((7, 7), float("-inf")).triu(1) if masked else None
    before = through(network, x, mask)

    pack(network, torch.float32)

    assert all(isinstance(block.attn, PackedAttention) for block in network)
    torch.testing.assert_close(through(network, x, mask), before, atol=2e-6, rtol=1e-5)


def test_a_mask_of_each_item_is_taken_too(paying: None) -> None:
    network, x = blocks(), torch.randn(3, 5, 64)
    mask = torch.where(torch.rand(3 * 4, 5, 5) < 0.3, float("-inf"), 0.0)
    mask[:, :, 0] = 0.0  # somewhere to look
    before = through(network, x, mask)

    pack(network, torch.float32)

    torch.testing.assert_close(through(network, x, mask), before, atol=2e-6, rtol=1e-5)


def test_the_weights_are_counted_and_not_kept_twice(paying: None) -> None:
    network = blocks(1)
    before = sum(p.numel() * 4 for p in network.parameters())

    pack(network, torch.float32)

    assert packed_bytes(network) + sum(p.numel() * 4 for p in network.parameters()) == before
    assert not any(p.dim() == 2 for p in network.parameters())


def test_attention_across_sequences_stays_as_it_is(paying: None) -> None:
    network = blocks(1, is_cross_attention=True)

    pack(network, torch.float32)

    assert isinstance(network[0].attn, torch.nn.MultiheadAttention)
    assert isinstance(network.get_submodule("0.mlp.c_fc"), PackedLinear)


def test_nothing_is_packed_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "packing_pays", lambda dtype: False)
    network = blocks(1)

    pack(network, torch.float32)

    assert packed_bytes(network) == 0


@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 16), (2, 3, 4, 16), (1, 16)])
def test_plain_layers_anywhere_are_packed_and_compute_what_they_did(shape: tuple[int, ...], paying: None) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8, bias=False))
    network, x = torch.nn.ModuleDict({"deep": torch.nn.ModuleList([layers])}).requires_grad_(False), torch.randn(shape)
    before, weights = layers(x), sum(p.numel() * 4 for p in network.parameters())

    pack_linears(network, torch.float32)

    assert [type(layer) for layer in layers] == [PackedLinear, torch.nn.GELU, PackedLinear]
    assert packed_bytes(network) == weights
    assert not list(network.parameters())
    torch.testing.assert_close(layers(x), before, atol=2e-6, rtol=1e-5)


def test_the_weights_of_a_packed_layer_are_let_go_before_the_next_one(
    paying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(4)]).requires_grad_(False)
    left, packed, alive = [weakref.ref(layer.weight) for layer in layers], PackedLinear.__init__, list[int]()

    def counted(self: PackedLinear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        alive.append(sum(one() is not None for one in left))
        packed(self, weight, bias)

    monkeypatch.setattr(PackedLinear, "__init__", counted)
    pack_linears(layers, torch.float32)

    assert alive == [4, 3, 2, 1]


def test_a_format_that_cannot_be_packed_does_not_pay() -> None:
    assert packing_pays(torch.float64) is False
