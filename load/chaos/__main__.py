"""`python -m load.chaos`: announces pictures, kills each part once meanwhile, and says what became of every one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from load.chaos.announcements import Announced, announce, lay_out
from load.chaos.parts import Stack
from load.chaos.truth import Truth, judged, looked_up, open_ways, registered_pictures, told
from load.components.processes import Absent

AWAY_S, BETWEEN_S = 4.0, 4.0
SETTLED_S = 300.0


@dataclass(frozen=True, slots=True)
class Killed:
    """One part: when it was killed, how long it was away, and how many pictures were registered then and afterwards."""

    part: str
    at_s: float
    away_s: float
    before: int
    after: int


async def kill_in_turn(stack: Stack, began: float) -> AsyncIterator[Killed]:
    """Each once, some seconds apart; it has to find the others by itself when it comes back."""
    for name, part in stack.breakable.items():
        await asyncio.sleep(BETWEEN_S)
        before, at = await _registered(stack), time.monotonic()
        await asyncio.to_thread(part.kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(part.start)
        away = time.monotonic() - at
        await asyncio.sleep(BETWEEN_S)
        yield Killed(name, at - began, away, before, await _registered(stack))


async def settled(stack: Stack, announced: list[Announced]) -> None:
    """Returns when every picture has ended its way; raises TimeoutError."""
    async with asyncio.timeout(SETTLED_S):
        while True:
            with contextlib.suppress(OSError):
                known, going = await registered_pictures(stack.database_url), await open_ways(stack.database_url)
                if known >= len(announced) and going == 0 and stack.api.ready():
                    return
            await asyncio.sleep(0.5)


async def run(stack: Stack, count: int) -> Truth:
    """The whole of it over a running stack; prints as it goes."""
    print(f"{count} pictures are laid out", flush=True)  # noqa: T201
    announced = await asyncio.to_thread(lay_out, stack.client(), count)
    lasts = len(stack.breakable) * (AWAY_S + 2 * BETWEEN_S + 2.0)
    began = time.monotonic()
    announcing = asyncio.create_task(announce(stack.kafka.brokers, announced, within_s=lasts))
    rows = []
    async for killed in kill_in_turn(stack, began):
        rows.append(killed)
        print(f"{killed.part}: killed at {killed.at_s:.0f} s, away {killed.away_s:.1f} s", flush=True)  # noqa: T201
    again = await announcing
    try:
        await settled(stack, announced)
    except TimeoutError:
        print(f"not everything had ended {SETTLED_S:.0f} s later", flush=True)  # noqa: T201
    took = time.monotonic() - began
    truth = judged(announced, await looked_up(stack.database_url, stack.vectors))
    print(table(rows, truth, count=count, again=again, took_s=took), flush=True)  # noqa: T201
    return truth


def table(rows: list[Killed], truth: Truth, *, count: int, again: int, took_s: float) -> str:
    """For docs/ingestion.md."""
    lines = ["", "| killed | at | away | registered before | some seconds after |", "|---|---|---|---|---|"]
    lines += [f"| {r.part} | {r.at_s:.0f} s | {r.away_s:.1f} s | {r.before} | {r.after} |" for r in rows]
    reasons = ", ".join(f"{code}: {number}" for code, number in sorted(truth.reasons.items())) or "none"
    said = f"{truth.indexed} indexed exactly once, {truth.given_up} in the dead letters ({reasons})"
    lines += ["", f"Of {count} announced pictures {said}; {again} sends were repeated; {took_s:.0f} s in all."]
    return "\n".join([*lines, "", told(truth), "HELD" if truth.holds else "BROKEN"])


async def _registered(stack: Stack) -> int:
    """-1 while the database is away."""
    try:
        return await registered_pictures(stack.database_url)
    except OSError:
        return -1


def main() -> int:
    """0: every picture is accounted for; 1: not; 2: something is absent."""
    parser = argparse.ArgumentParser(prog="python -m load.chaos", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000, help="how many are announced (1,000)")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and data")
    asked = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is the point
    folder = Path(tempfile.mkdtemp(prefix="modelmora-chaos-"))
    try:
        stack = Stack(folder)
        with stack.running():
            truth = asyncio.run(run(stack, asked.pictures))
    except Absent as absent:
        print(absent, file=sys.stderr)  # noqa: T201
        return 2
    finally:
        if asked.keep:
            print(f"kept: {folder}")  # noqa: T201
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if truth.holds else 1


if __name__ == "__main__":
    sys.exit(main())
