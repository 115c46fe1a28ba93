"""Versions as they are registered: made, listed, looked up, moved through their life, validated, compared, read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api import render_registry
from api.core import Core
from api.http.ndjson import MEDIA_TYPE, Lines, line
from api.http.registry_bodies import Asked, NewVersion, Results, metrics_of, taken
from api.http.registry_conditions import Other, Ref, Version, actor_of, etag, row_matched
from api.http.registry_once import answer, once
from api.http.registry_operations import (
    CONDITION,
    DIFFERENCES,
    KEY_HEADER,
    LINEAGE,
    VALIDATING,
    VERSION,
    paged,
    route,
)
from api.http.registry_queries import VersionsAsked
from api.http.routes import json_answer, patience_of
from modelmora.domain.registry.lineage import Node
from modelmora.ports import Answer
from modelmora.usecases.application import Application

PREFIX = "/api/v1/models/{ref}/versions"
ONE = "/{version}"


def version_router(core: Core) -> APIRouter:
    """`/api/v1/models/{ref}/versions` and below."""
    router = APIRouter(prefix=PREFIX, tags=["versions"])
    _add_reading(router, core)
    _add_making(router, core)
    _add_living(router, core)
    _add_telling(router, core)
    return router


def _add_reading(router: APIRouter, core: Core) -> None:
    @router.get("", **route("read", paged(VERSION)))
    async def list_versions(ref: Ref, asked: Annotated[VersionsAsked, Query()]) -> Response:
        """The versions of a model, by precedence."""
        found = await core.get().registry.versions.find(asked.query(ref))
        return json_answer(render_registry.page(found, render_registry.version))

    @router.get(ONE, **route("read", VERSION))
    async def get_version(ref: Ref, version: Version) -> Response:
        """One version."""
        entry = await core.get().registry.versions.get(ref, version)
        return json_answer(render_registry.version(entry), headers=etag(entry))


def _add_making(router: APIRouter, core: Core) -> None:
    @router.post("", **route("operate", VERSION, status=201, body=NewVersion, headers=KEY_HEADER))
    async def register_version(request: Request, ref: Ref) -> Response:
        """A version whose files are in the object store already; it is validated in the background."""
        registry = core.get().registry
        given = await (await taken(request, NewVersion)).registration()

        async def make(id: str | None) -> Answer:
            entry = await registry.versions.register(ref, given, by=actor_of(request), id=id)
            registry.validation.begin(entry)
            where = {"location": f"/api/v1/models/{quote(entry.model)}/versions/{quote(entry.version)}"}
            return answer(render_registry.version(entry), 201, {**where, **etag(entry)})

        return await once(request, registry.once, make)

    @router.patch(ONE, **route("operate", VERSION, body=Results, headers=CONDITION))
    async def amend_version(request: Request, ref: Ref, version: Version) -> Response:
        """Results found out later: of the same name on the same data set the new one counts."""
        versions, body = core.get().registry.versions, await taken(request, Results)
        row = await row_matched(request, lambda: versions.get(ref, version))
        found = metrics_of(body.metrics)
        entry = await versions.amend(ref, version, metrics=found, by=actor_of(request), row=row)
        return json_answer(render_registry.version(entry), headers=etag(entry))

    @router.delete(ONE, **route("admin", None, status=204, headers=CONDITION))
    async def remove_version(request: Request, ref: Ref, version: Version) -> Response:
        """Refused while it is deployed or what the bare name stands for; its number is not given again."""
        versions = core.get().registry.versions
        row = await row_matched(request, lambda: versions.get(ref, version))
        await versions.remove(ref, version, by=actor_of(request), row=row)
        return Response(status_code=204)


def _add_living(router: APIRouter, core: Core) -> None:
    @router.post(f"{ONE}/moves", **route("operate", VERSION, body=Asked, headers=CONDITION))
    async def move_version(request: Request, ref: Ref, version: Version) -> Response:
        """A step of its life; one that is not allowed is refused with those that are."""
        registry, body = core.get().registry, await taken(request, Asked)
        row = await row_matched(request, lambda: registry.versions.get(ref, version))
        by = actor_of(request)
        entry = await registry.versions.move(ref, version, body.move, by=by, reason=body.reason, row=row)
        if entry.state == "registered":
            registry.validation.begin(entry)
        return json_answer(render_registry.version(entry), headers=etag(entry))

    @router.post(f"{ONE}/validate", **route("operate", VALIDATING, media=MEDIA_TYPE))
    async def validate_version(request: Request, ref: Ref, version: Version) -> Response:
        """Loads and runs it on a runner, a line a step; the last one has the version as it is then, or the error."""
        return Lines(_validating(core.get(), request, ref, version))


def _add_telling(router: APIRouter, core: Core) -> None:
    @router.get(f"{ONE}/lineage", **route("read", LINEAGE))
    async def lineage_of_version(ref: Ref, version: Version) -> Response:
        """What it was made of and what was made of it, as far as that reaches."""
        versions = core.get().registry.versions
        center = Node("version", (await versions.get(ref, version)).key)
        return json_answer(render_registry.lineage(center, await versions.lineage(center)))

    @router.get(f"{ONE}/diff/{{other}}", **route("read", DIFFERENCES))
    async def compare_versions(ref: Ref, version: Version, other: Other) -> Response:
        """What differs between two versions of a model, value by value."""
        found = await core.get().registry.versions.difference(ref, version, other)
        return json_answer(render_registry.differences(version, other, found))


async def _validating(
    application: Application, request: Request, ref: str, version: str
) -> AsyncGenerator[bytes, None]:
    registry, deadline = application.registry, patience_of(request, application)
    steps = registry.validation.validate(ref, version, by=actor_of(request), deadline=deadline)
    async with aclosing(steps):
        async for step in steps:
            yield line(await _step(application, ref, version, dict(step)))


async def _step(application: Application, ref: str, version: str, step: dict[str, Any]) -> dict[str, Any]:
    """The report with the version in the form that every route has."""
    if step["stage"] != "report":
        return step
    return {**step, "version": render_registry.version(await application.registry.versions.get(ref, version))}
