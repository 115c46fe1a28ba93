"""`verify` and `tune` on their way: a bar or lines of JSON, then the report."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from modelmora.cli.failures import Failure
from modelmora.cli.screen import print_json, progress
from modelmora.cli.server import Server
from modelmora.ports import Examination

_DONE: Final[Mapping[Examination, str]] = {"verify": "verified", "tune": "tuned"}


def examined(server: Server, model: str, what: Examination, *, quiet: bool) -> Mapping[str, Any]:
    """The report; where the bar is to be `quiet`, each step is a line of JSON. Raises Failure when none comes."""
    last = asyncio.run(_last(server, model, what, quiet))
    if last.get("stage") != "report":
        raise Failure(f"the server stopped sending before {model} was {_DONE[what]}", advice="run the command again")
    return last


async def _last(server: Server, model: str, what: Examination, quiet: bool) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {}
    options = {} if server.timeout is None else {"timeout": server.timeout}
    with progress(f"{what} {model}", total=None, quiet=quiet) as bar:
        async with server.client() as client:
            examine = client.verify if what == "verify" else client.tune
            async with aclosing(examine(model, **options)) as steps:
                async for last in steps:
                    bar.to(last.get("done", 0), last.get("total") or None)
                    if quiet:
                        print_json(last)
    return last
