"""Fetches nothing: what a server does that was not told whom it may ask."""

from __future__ import annotations

from collections.abc import Sequence

from modelmora.domain.inference import Call
from modelmora.domain.links import FIELD
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import CapabilityMissing


class ClosedPictures:
    """The port Pictures without a network."""

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        """Says of each how pictures can be sent, and which setting opens this."""
        return [Failed(_closed()) for _ in urls]


def _closed() -> CapabilityMissing:
    return CapabilityMissing(
        "this server fetches no pictures by URL: send the picture itself as a data URI; "
        "an operator lists the hosts that may be asked in MODELMORA_FETCH_HOSTS",
        field=FIELD,
        found="a URL",
        expected="data:image/...;base64,...",
    )
