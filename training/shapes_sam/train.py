"""Trains `shapes-sam` from nothing: `python -m training.shapes_sam.train --out DIR --seed 0`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from training.shapes_sam import losses
from training.shapes_sam import network as networks
from training.shapes_sam.examples import Example, Pool, collect, example, seen
from training.shapes_sam.network import TOKENS, Part
from training.shapes_sam.prompts import Asked, place_in
from training.shapes_sam.sameness import Sameness

_PICTURES = 4
"""In a step."""

_SMALL = 16
"""Tokens a side of the part that is looked at first: a third of the time."""

_WARM_UP = 150
_LOOKS = 0.3
"""The share of the steps of the encoder alone in which places do not count, only looks."""

_HEAD = 0.3
"""What the loss of the head counts beside that of the prompts."""

_BALANCED = 600
"""Steps of the first round in which the loss begins balanced between a thing and the rest.

No mask at all looks good to the others.
"""

_AGAIN = 0.25
"""So often a second point is set where the first answer is wrong, with that answer as the earlier mask."""


@dataclass(frozen=True, slots=True)
class Round:
    """Steps with prompts on parts of 256 pixels, then on whole scenes; the rate rises and falls once."""

    small: int
    whole: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps of the encoder alone, and the rounds with prompts that follow."""

    sameness: int
    rounds: tuple[Round, ...]


def train(pool: Pool, plan: Plan, *, seed: int, out: Path) -> Any:
    torch.manual_seed(seed)
    network, head = networks.build(), Sameness(networks.CHANNELS)
    networks.begin_with_cosines(network)
    learn_sameness(pool, network, head, steps=plan.sameness, seed=seed)
    networks.save(network.state_dict(), out)
    for number, each in enumerate(plan.rounds):
        learn_prompts(pool, network, head, each, balanced=0 if number else _BALANCED, seed=seed + 1 + number, out=out)
    return network


def learn_sameness(pool: Pool, network: Any, head: Sameness, *, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [*network.image_encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    progress = Progress(steps)
    for step, part in enumerate(parts(rng, steps, 0)):
        head.is_placed = step >= _LOOKS * steps
        drawn = [seen(rng, network, pool.scene(int(rng.integers(len(pool)))), part) for _ in range(_PICTURES)]
        with torch.autocast("cpu", torch.bfloat16):
            features = networks.encode(network, torch.cat([pixels for pixels, _ in drawn]), part)
            loss = head.loss(rng, features, np.stack([labels for _, labels in drawn]))
        progress.step(_descend(optimizer, weights, loss))
        schedule.step()


def learn_prompts(
    pool: Pool, network: Any, head: Sameness, plan: Round, *, balanced: int, seed: int, out: Path
) -> None:
    steps = plan.small + plan.whole
    rng = np.random.default_rng(seed)
    weights = [*network.parameters(), *head.parameters()]
    optimizer = optimizer_of(torch.nn.ModuleList([network, head]), 5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    progress = Progress(steps)
    for step, part in enumerate(parts(rng, plan.small, plan.whole)):
        drawn = (example(rng, network, pool.scene(int(rng.integers(len(pool)))), part) for _ in range(_PICTURES))
        examples = [one for one in drawn if one is not None]
        if examples:
            balance = max(0.0, 1 - step / balanced) if balanced else 0.0
            loss = loss_of(rng, network, head, examples, part, balance=balance)
            progress.step(_descend(optimizer, weights, loss))
        schedule.step()
        if step % 250 == 249:
            networks.save(network.state_dict(), out)


def _descend(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], loss: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return loss.item()


def loss_of(
    rng: np.random.Generator, network: Any, head: Sameness, examples: list[Example], part: Part, *, balance: float
) -> torch.Tensor:
    """Of the prompts, and of the head, which goes on telling the encoder more than they can."""
    with torch.autocast("cpu", torch.bfloat16):
        features = networks.encode(network, torch.cat([one.pixels for one in examples]), part)
        same = head.loss(rng, features, np.stack([one.labels for one in examples]))
    each = [
        _answered(rng, network, feature[None], one.asked, part, balance=balance)
        for feature, one in zip(features, examples, strict=True)
    ]
    return torch.stack(each).mean() + _HEAD * same


def _answered(
    rng: np.random.Generator, network: Any, features: torch.Tensor, asked: Asked, part: Part, *, balance: float
) -> torch.Tensor:
    wanted = (avg_pool2d(torch.from_numpy(asked.masks).float()[:, None], 4) >= 0.5).float()[:, 0]
    logits, scores = networks.decode(network, features, part, points=asked.points, boxes=asked.boxes)
    loss = losses.of_masks(logits, scores, wanted, balance=balance)
    if rng.random() >= _AGAIN:
        return loss
    best = logits.detach()[torch.arange(len(logits)), losses.overlap(logits, wanted).argmax(dim=1)]
    points = _corrections(rng, asked, best, wanted)
    logits, scores = networks.decode(network, features, part, points=points, boxes=asked.boxes, masks=best[:, None])
    return (loss + losses.of_masks(logits, scores, wanted, balance=balance)) / 2


def _corrections(
    rng: np.random.Generator, asked: Asked, found: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The points, and one more for each prompt where the answer (prompts, h, w) is wrong."""
    wrong = ((found > 0) != (wanted > 0.5)).numpy()
    places = np.array([place_in(rng, each) for each in wrong], dtype=np.int64)
    kinds = wanted[torch.arange(len(wanted)), places[:, 1], places[:, 0]].long()
    points, labels = torch.from_numpy(places * 4.0 + 1.5).float()[:, None], kinds[:, None]
    if asked.points is None:
        return points, labels
    return torch.cat([asked.points[0], points], dim=1), torch.cat([asked.points[1], labels], dim=1)


def optimizer_of(network: torch.nn.Module, rate: float) -> torch.optim.AdamW:
    """Decays the matrices of layers only."""
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, weight in network.named_parameters():
        is_table = any(part in name for part in ("embeddings", "tokens", "token", "pos", "embed.weight"))
        (decayed if weight.ndim >= 2 and not is_table else kept).append(weight)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def rate_at(step: int, steps: int) -> float:
    """A share of the learning rate: rises in a line, falls as a cosine."""
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - _WARM_UP) / max(1, steps - _WARM_UP)))


def parts(rng: np.random.Generator, small: int, whole: int) -> Iterator[Part]:
    """For every step which part of the canvas is trained."""
    for _ in range(small):
        top, left = rng.integers(TOKENS - _SMALL + 1, size=2)
        yield Part(_SMALL, int(top), int(left))
    for _ in range(whole):
        yield Part()


class Progress:
    """Says every fifty steps how the loss goes, and how long it takes."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._sum = steps, 0, 0.0
        self._began = time.monotonic()

    def step(self, loss: float) -> None:
        self._done, self._sum = self._done + 1, self._sum + loss
        if self._done % 50 == 0:
            seconds = time.monotonic() - self._began
            click.echo(f"step {self._done}/{self._steps}  loss {self._sum / 50:.3f}  {seconds:.0f} s")
            self._sum = 0.0


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder to write.")
@click.option("--seed", default=0, show_default=True)
@click.option("--scenes", default=3600, show_default=True, help="How many to draw; 0.6 MB of memory each.")
@click.option("--sameness", default=3400, show_default=True, help="Steps in which the encoder learns alone.")
@click.option(
    "--round",
    "rounds",
    type=(int, int),
    multiple=True,
    default=[(3000, 600), (4500, 1400)],
    show_default=True,
    help="Steps with prompts on parts of 256 pixels, and on whole scenes after that; once for each round.",
)
@click.option("--workers", default=1, show_default=True, help="Processes that draw.")
def main(out: Path, *, seed: int, scenes: int, workers: int, sameness: int, rounds: list[tuple[int, int]]) -> None:
    """Draw the scenes, train, and write a folder as transformers does."""
    began = time.monotonic()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    pool = collect(scenes, seed=seed, workers=workers)
    click.echo(f"{len(pool)} scenes drawn in {time.monotonic() - began:.0f} s")
    plan = Plan(sameness=sameness, rounds=tuple(Round(*each) for each in rounds))
    network = train(pool, plan, seed=seed, out=out)
    networks.save(network.state_dict(), out)
    click.echo(f"wrote {out} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
