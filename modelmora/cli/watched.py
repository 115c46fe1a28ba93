"""`modelmora embed --progress`: one picture or text, and how far it is."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import click

from modelmora.cli.screen import print_json, progress
from modelmora.cli.server import Server
from modelmora.cli.sources import Source
from modelmora.client import Embedding, InternalError, Text


def embed_watched(server: Server, source: Source, *, model: str | None, truncate: bool, quiet: bool) -> Embedding:
    """A bar on the way, or where that is to be `quiet`, each step as a line of JSON. Raises the item's error."""
    return asyncio.run(_embed(server, source, model, truncate, quiet))


def check_one(sources: list[Source], output: object) -> None:
    """Raises UsageError: progress is told of one thing, printed."""
    if len(sources) != 1 or output is not None:
        raise click.UsageError("--progress is for one picture or text, without --output")


async def _embed(server: Server, source: Source, model: str | None, truncate: bool, quiet: bool) -> Embedding:
    content = source.content
    text = content.text if isinstance(content, Text) else None
    image = None if isinstance(content, Text) else content
    with progress(source.name, total=100, quiet=quiet) as bar:
        async with server.client() as client:
            news = client.embed_with_progress(image, text=text, model=model, truncate=truncate)
            async with aclosing(news):
                async for each in news:
                    if isinstance(each, Embedding):
                        return each
                    bar.to(int(each.percent), label=each.stage)
                    if quiet:
                        print_json(each)
    raise InternalError("the server ended the stream without an embedding")
