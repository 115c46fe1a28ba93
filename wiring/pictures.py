"""Pictures by URL, as the settings allow them."""

from __future__ import annotations

import contextlib

from adapters.pictures import ClosedPictures, FetchRules, HttpPictures
from modelmora.domain.addresses import read_network
from modelmora.domain.links import HostRule
from modelmora.ports import Pictures
from modelmora.settings import Settings


def open_pictures(settings: Settings, stack: contextlib.AsyncExitStack) -> Pictures:
    """Closed unless hosts are listed; closes with the stack."""
    fetch = settings.fetch
    if not fetch.hosts:
        return ClosedPictures()
    rules = FetchRules(
        hosts=tuple(map(HostRule.parse, fetch.hosts)),
        networks=tuple(map(read_network, fetch.networks)),
        picture_bytes=settings.limits.image_bytes,
        request_bytes=fetch.max_bytes,
        timeout_s=fetch.timeout_ms / 1e3,
    )
    pictures = HttpPictures(rules)
    stack.push_async_callback(pictures.close)
    return pictures
