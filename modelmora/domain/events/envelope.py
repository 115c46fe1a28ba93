"""CloudEvents 1.0 (github.com/cloudevents/spec), structured mode, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

SPEC = "1.0"
CONTENT_TYPE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `type` ends in its version (`com.modelmora.image.registered.v1`), `key` orders (the image's id, or the
    model's name), `topic` is where it goes; `data` is what its type says. `source` and `id` together name it."""

    id: str
    source: str
    type: str
    topic: str
    key: str
    time: datetime
    data: Mapping[str, Any]
    subject: str = ""
    tenant: str = "default"
    trace: str = ""
    """W3C traceparent, an extension attribute; empty where nobody traces."""
    extensions: Mapping[str, str] = field(default_factory=dict)
