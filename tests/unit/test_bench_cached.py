"""What the benchmark of remembered embeddings sends, and what it makes of what it measured."""

from __future__ import annotations

import pytest

from load.bench import payloads
from load.bench.cached import markdown
from load.bench.plan import Point
from load.bench.results import Run, Window


def a_run(us: float, *, foreign_cores: float = 0.0) -> Run:
    conditions: dict[str, object] = {
        "cache": "memory://",
        "callers": 32,
        "picture_bytes": 20_000,
        "alone_us": {1: 20.0},
    }
    run = Run(model="noop", machine={}, conditions={**conditions, "of": ["texts", "pictures", "batch"]})
    for _ in range(3):
        spent = {"modelmora": us * 1000 / 1e6, "runner-default": 1.0}
        run.windows.append(
            Window(
                party="ours", point=Point("http", 32), pair=None, items=1000, wall_s=1.0, cpu_s=spent,
                foreign_cores=foreign_cores,
            )
        )  # fmt: skip
    return run


@pytest.mark.parametrize(("us", "held", "broken"), [(149.0, 3, 0), (151.0, 2, 1), (331.0, 0, 3)])
def test_api_cpu_alone_is_promised(us: float, held: int, broken: int) -> None:
    told = markdown(a_run(us))
    assert (told.count(": held"), told.count(": NOT held")) == (held, broken)


def test_windows_in_which_others_took_the_machine_are_told() -> None:
    assert markdown(a_run(100.0)).count("0 of 1") == 3
    assert markdown(a_run(100.0, foreign_cores=0.5)).count("1 of 1") == 3


def test_the_same_requests_come_again_and_again() -> None:
    requests = payloads.repeated(payloads.text_requests("/v1/embed/text", "noop"), 3)
    sent = [b"".join(requests(number)) for number in range(9)]
    assert sent[:3] == sent[3:6] == sent[6:]
    assert len(set(sent)) == 3
