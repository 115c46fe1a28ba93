"""Answers that come in pages, as one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from modelmora.client.control import Control, mapping

PAGE = 500


async def pages(control: Control, path: str, params: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
    """Each entry, page after page."""
    cursor: str | None = None
    while True:
        asked = {"limit": str(PAGE), **params, **({"cursor": cursor} if cursor else {})}
        page = mapping(await control.ask("GET", path, params=asked))
        for entry in page.get("data") or ():
            yield entry
        cursor = page.get("next_cursor")
        if not cursor:
            return
