"""The use cases as plain Python, for `@bentoml.api` methods called in the service's own process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from api import calls, render
from api.core import Core
from api.http.embed import texts_of
from modelmora.domain.inference import Content, Image
from modelmora.domain.outcome import Ok, Outcome
from modelmora.ids import new_id


async def embed_files(core: Core, files: list[Path], model: str) -> dict[str, Any]:
    """The answer of `/v1/embed/image`."""
    items: list[Outcome[Content]] = [Ok(Image(await asyncio.to_thread(file.read_bytes))) for file in files]
    return await _embed(core, items, model)


async def embed_texts(core: Core, texts: list[str], model: str, *, truncate: bool) -> dict[str, Any]:
    """The answer of `/v1/embed/text`."""
    return await _embed(core, texts_of(texts), model, truncate=truncate)


async def _embed(core: Core, items: list[Outcome[Content]], model: str, *, truncate: bool = False) -> dict[str, Any]:
    application = core.get()
    call = calls.read_call({}, id_=new_id(), face="http", limits=application.limits, truncate=truncate)
    answer = await application.embed(model or None, items, call=call)
    plain: dict[str, Any] = orjson.loads(render.to_json(render.embeddings(answer, "float")))
    return plain
