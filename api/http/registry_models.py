"""Models as they are registered: made, listed, looked up, changed, removed, and which version a name stands for."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import render_registry
from api.core import Core
from api.http.registry_bodies import Chosen, ModelChanges, NewModel, taken
from api.http.registry_conditions import Ref, actor_of, etag, row_matched
from api.http.registry_once import answer, once
from api.http.registry_operations import CONDITION, KEY_HEADER, MODEL, paged, route
from api.http.registry_queries import ModelsAsked
from api.http.routes import json_answer, patience_of
from modelmora.domain.models import ModelRef
from modelmora.domain.registry.entries import Model
from modelmora.domain.registry.semver import SemVer
from modelmora.errors import ModelNotFound
from modelmora.ports import Answer
from modelmora.usecases.application import Application

PREFIX = "/api/v1/models"


def registered_model_router(core: Core) -> APIRouter:
    """`/api/v1/models` as entries of the registry."""
    router = APIRouter(prefix=PREFIX, tags=["models"])
    _add_reading(router, core)
    _add_changing(router, core)
    _add_switching(router, core)
    return router


def _add_reading(router: APIRouter, core: Core) -> None:
    @router.get("", **route("read", paged(MODEL)))
    async def list_models(asked: Annotated[ModelsAsked, Query()]) -> Response:
        """The registered models, each with how its current version stands."""
        application = core.get()
        found = await application.registry.models.find(asked.query())
        return json_answer(render_registry.page(found, lambda entry: _row(application, entry)))

    @router.get("/{ref}", **route("read", MODEL))
    async def get_model(ref: str) -> Response:
        """One model by its name or id, with how its current version stands; by `name@version`, how that one does."""
        return await _shown(core.get(), ModelRef.parse(ref))


def _add_changing(router: APIRouter, core: Core) -> None:
    @router.post("", **route("operate", MODEL, status=201, body=NewModel, headers=KEY_HEADER))
    async def register_model(request: Request) -> Response:
        """A name for versions to come."""
        registry, body = core.get().registry, await taken(request, NewModel)

        async def make(id: str | None) -> Answer:
            entry = await registry.models.add(
                body.name,
                body.type,
                by=actor_of(request),
                description=body.description,
                tags=tuple(body.tags),
                owner=body.owner,
                id=id,
            )
            where = {"location": f"{PREFIX}/{quote(entry.name)}"}
            return answer(render_registry.model(entry), 201, {**where, **etag(entry)})

        return await once(request, registry.once, make)

    @router.patch("/{ref}", **route("operate", MODEL, body=ModelChanges, headers=CONDITION))
    async def amend_model(request: Request, ref: Ref) -> Response:
        """What is left out stays as it is."""
        application, body = core.get(), await taken(request, ModelChanges)
        models = application.registry.models
        row = await row_matched(request, lambda: models.get(ref))
        entry = await models.amend(ref, body.amendment(), by=actor_of(request), row=row)
        return json_answer(_row(application, entry), headers=etag(entry))

    @router.delete("/{ref}", **route("admin", None, status=204, headers=CONDITION))
    async def remove_model(request: Request, ref: Ref) -> Response:
        """Refused while it has versions."""
        models = core.get().registry.models
        await models.remove(ref, by=actor_of(request), row=await row_matched(request, lambda: models.get(ref)))
        return Response(status_code=204)


def _add_switching(router: APIRouter, core: Core) -> None:
    @router.put("/{ref}/current", **route("operate", MODEL, body=Chosen, headers=CONDITION))
    async def make_current(request: Request, ref: Ref) -> Response:
        """Loads and warms the version, lets the bare name stand for it, then unloads the one before."""
        application, body = core.get(), await taken(request, Chosen)
        registry, version = application.registry, str(SemVer(body.version))
        row = await row_matched(request, lambda: registry.models.get(ref))
        deadline = patience_of(request, application)
        entry = await registry.swap.make_current(ref, version, by=actor_of(request), row=row, deadline=deadline)
        return json_answer(_row(application, entry), headers=etag(entry))


async def _shown(application: Application, ref: ModelRef) -> Response:
    registry, entry = application.registry, await _entry(application, ref)
    version = ref.version or entry.current
    if version is None:
        return json_answer(render_registry.model(entry), headers=etag(entry))
    status = application.models.find(entry.name, version)
    if status is not None and ref.version is None:
        return json_answer(render_registry.model(entry, status), headers=etag(entry))
    found = await registry.versions.get(entry.name, version)
    row = render_registry.model_at(entry, found) if status is None else render_registry.model(entry, status)
    return json_answer(row, headers=etag(entry))


async def _entry(application: Application, ref: ModelRef) -> Model:
    """Raises ModelNotFound with the nearest name that is served."""
    try:
        return await application.registry.models.get(ref.name)
    except ModelNotFound:
        application.models.get(ref.name)
        raise


def _row(application: Application, entry: Model) -> dict[str, Any]:
    status = None if entry.current is None else application.models.find(entry.name, entry.current)
    return render_registry.model(entry, status)
