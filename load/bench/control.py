"""What the harness asks our service besides embeddings: its control plane and its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPConnection
from types import MappingProxyType
from typing import Any, BinaryIO

from prometheus_client.parser import text_string_to_metric_families

from load.bench.processes import Trouble

_WAIT_S = 600.0


def ask(port: int, method: str, path: str, *, timeout_s: float = _WAIT_S) -> Any:
    """The JSON of the answer; raises Trouble when it is not 2xx."""
    return json.loads(_exchange(port, method, path, timeout_s))


def send(port: int, method: str, path: str, body: dict[str, Any], *, timeout_s: float = _WAIT_S) -> Any:
    """As `ask`, with a JSON body."""
    return json.loads(_exchange(port, method, path, timeout_s, json.dumps(body).encode()))


def put(port: int, path: str, file: BinaryIO, size: int, *, timeout_s: float = _WAIT_S) -> None:
    """Sends a file of that many bytes as it is read; raises Trouble when it is not taken."""
    _exchange(port, "PUT", path, timeout_s, file, more={"content-length": str(size)})


def steps(port: int, path: str, *, timeout_s: float = _WAIT_S) -> list[dict[str, Any]]:
    """Every line of an NDJSON answer to a POST; raises Trouble when it is not 2xx or ends in an error."""
    lines = [json.loads(line) for line in _exchange(port, "POST", path, timeout_s).splitlines() if line.strip()]
    if not lines or "error" in lines[-1]:
        raise Trouble(f"{path} ended with {lines[-1] if lines else 'nothing'}")
    return lines


def metric(port: int, name: str, **labels: str) -> float:
    """The sum of a metric over all processes and over all labels but these; 0 where nothing was counted yet."""
    return total(_exchange(port, "GET", "/metrics", 60.0), name, **labels)


def total(text: str, name: str, **labels: str) -> float:
    """`metric` of a page in Prometheus' text format."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum((one.value for one in samples if one.name == name and labels.items() <= one.labels.items()), 0.0)


def _exchange(
    port: int,
    method: str,
    path: str,
    timeout_s: float,
    content: bytes | BinaryIO | None = None,
    *,
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        headers = {"x-modelmora-timeout-ms": str(int(timeout_s * 1000)), "content-type": "application/json", **more}
        connection.request(method, path, body=content, headers=headers)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except OSError as silent:
        raise Trouble(f"{method} {path}: {silent}") from silent
    finally:
        connection.close()
    if response.status >= 300:
        raise Trouble(f"{method} {path} was answered with {response.status}: {body[:500]}")
    return body
