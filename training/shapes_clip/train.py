"""Trains `shapes-clip` from nothing: `python -m training.shapes_clip.train --out DIR --seed 0 --steps N`."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from open_clip import SimpleTokenizer
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.shapes_clip import network as networks
from training.shapes_clip.pool import GROUP, IMAGE_SIZE, Example, draw_pool

_BATCH = 128
_WARM_UP = 100
_LARGEST_SHIFT = 3
_MEAN, _STD = networks.MEAN[0], networks.STD[0]


@dataclass(frozen=True, slots=True)
class Pool:
    """Every training picture and caption, group after group."""

    pixels: torch.Tensor
    tokens: torch.Tensor
    captions: list[str]
    truths: list[frozenset[str]]


def collect(pictures: int, *, seed: int) -> Pool:
    tokenizer = SimpleTokenizer(context_length=networks.CONTEXT_LENGTH)
    examples: list[Example] = []
    tokens: list[torch.Tensor] = []
    for chunk in draw_pool(pictures, seed=seed, workers=os.cpu_count() or 1):
        drawn = [example for group in chunk for example in group]
        examples += drawn
        tokens.append(tokenizer([example.worded for example in drawn]))
    return Pool(
        torch.from_numpy(np.stack([example.pixels for example in examples])).permute(0, 3, 1, 2),
        torch.cat(tokens),
        [example.caption for example in examples],
        [example.truths for example in examples],
    )


def batches(pool: Pool, steps: int, *, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """For every step the places of its pictures: whole groups, each group once an epoch."""
    groups, wanted = len(pool.captions) // GROUP, _BATCH // GROUP
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < wanted:
            order = torch.randperm(groups, generator=generator)
        chosen, order = order[:wanted], order[wanted:]
        yield (chosen[:, None] * GROUP + torch.arange(GROUP)).flatten()


def also_true(pool: Pool, places: list[int]) -> torch.Tensor:
    """Where a caption is true of another's picture too: such a pair is no example of a mismatch."""
    said = [pool.captions[place] for place in places]
    mask = torch.tensor([[caption in pool.truths[place] for caption in said] for place in places])
    return mask.fill_diagonal_(False)


def shifted(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The pictures as floats, all moved by the same few pixels, edges repeated."""
    down, right = torch.randint(0, 2 * _LARGEST_SHIFT + 1, (2,), generator=generator).tolist()
    padded = functional.pad(pixels.float(), [_LARGEST_SHIFT] * 4, mode="replicate")
    moved = padded[:, :, down : down + IMAGE_SIZE, right : right + IMAGE_SIZE]
    return (moved / 255 - _MEAN) / _STD


def loss_of(network: torch.nn.Module, pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # On a CPU the backward pass of the fused attention takes longer than all the rest.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        image, text, scale = network(pixels, tokens)[:3]
    logits = (scale * image.float() @ text.float().T).masked_fill(mask, -math.inf)
    own = torch.arange(len(logits))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def optimizer_of(network: torch.nn.Module, rate: float) -> torch.optim.AdamW:
    """Decays the matrices only: the embeddings of words never read would fade otherwise."""
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, weight in network.named_parameters():
        (decayed if weight.ndim >= 2 and "embedding" not in name else kept).append(weight)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def rate_at(step: int, steps: int) -> float:
    """A share of the learning rate: rises in a line, falls as a cosine."""
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - _WARM_UP) / max(1, steps - _WARM_UP)))


def train(pool: Pool, steps: int, *, rate: float, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = networks.build()
    optimizer = optimizer_of(network, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    progress = Progress(steps)
    for places in batches(pool, steps, generator=generator):
        pixels, mask = shifted(pool.pixels[places], generator), also_true(pool, places.tolist())
        loss = loss_of(network, pixels, pool.tokens[places], mask)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        network.logit_scale.data.clamp_(max=math.log(100))  # type: ignore[operator] # a parameter
        progress.step(loss.item())
    return network


class Progress:
    """Says every hundred steps how the loss goes, and how long it takes."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._sum = steps, 0, 0.0
        self._began = time.monotonic()

    def step(self, loss: float) -> None:
        self._done, self._sum = self._done + 1, self._sum + loss
        if self._done % 100 == 0 or self._done == self._steps:
            seconds, summed = time.monotonic() - self._began, (self._done - 1) % 100 + 1
            click.echo(f"step {self._done}/{self._steps}  loss {self._sum / summed:.3f}  {seconds:.0f} s")
            self._sum = 0.0


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder to write.")
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=4600, show_default=True)
@click.option("--pictures", default=60_000, show_default=True, help="How many to draw; 28 KB of memory each.")
@click.option("--rate", default=1.5e-3, show_default=True, help="The highest learning rate.")
def main(out: Path, seed: int, steps: int, pictures: int, rate: float) -> None:
    """Draw the pictures, train, and write an open_clip folder."""
    began = time.monotonic()
    pool = collect(pictures, seed=seed)
    click.echo(f"{len(pool.captions)} pictures drawn in {time.monotonic() - began:.0f} s")
    network = train(pool, steps, rate=rate, seed=seed)
    networks.save(network, out)
    click.echo(f"wrote {out} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
