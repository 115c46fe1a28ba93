"""The runners' metrics at the service's /metrics, also after one of them was killed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from tests.e2e.serving import Server, noop
from tests.support import wait_until


def gauges(server: Server) -> set[int]:
    """The processes whose models' bytes count."""
    folder = server.log.parent / "bentoml" / "prometheus_multiproc_dir"
    files = [path for path in folder.glob("gauge_livesum_*.db") if b"modelmora_model_bytes" in path.read_bytes()]
    return {int(path.stem.rpartition("_")[2]) for path in files}


def samples(server: Server, metric: str) -> dict[str, float]:
    """The samples of a metric by their labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=10.0).text
    return {labels: float(value) for labels, value in re.findall(rf"^{metric}{{(.*)}} (\S+)$", text, re.MULTILINE)}


def test_loads_and_memory_are_told_and_those_of_a_killed_runner_are_dropped(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(registry=noop())
    server.wait_ready()

    assert samples(server, "modelmora_model_loads_total") == {'code="ok",model="noop",version="1.0.0"': 1.0}
    assert set(samples(server, "modelmora_model_bytes")) == {'model="noop",version="1.0.0"'}
    assert set(samples(server, "modelmora_device_memory_bytes")) == {'device="cpu"'}
    assert samples(server, "modelmora_model_load_seconds_count") == {'model="noop",version="1.0.0"': 1.0}

    (first,) = gauges(server)
    psutil.Process(first).kill()

    wait_until(lambda: first not in gauges(server), within_s=60, what="the killed runner's gauges are dropped")
    wait_until(
        lambda: list(samples(server, "modelmora_model_loads_total").values()) == [2.0],
        within_s=60,
        what="the next runner loaded the model, and the load of the killed one still counts",
    )
    assert len(gauges(server)) == 1
