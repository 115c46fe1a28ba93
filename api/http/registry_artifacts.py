"""Files in the object store by their digest: sent, found, fetched; and those that nothing refers to removed."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api import render_registry
from api.core import Core
from api.http.registry_bodies import Sweep, taken_if_any
from api.http.registry_operations import COLLECTED, DOWNLOAD, FIND, STORE, STORED, UPLOAD, route
from api.http.registry_streams import Download, incoming
from api.http.routes import HotRoute, json_answer
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.domain.registry.entries import ModelVersion
from modelmora.domain.registry.semver import SemVer
from modelmora.errors import VersionNotFound

PREFIX = "/api/v1/artifacts"


def artifact_routes(core: Core) -> list[HotRoute]:
    """What has bodies of any size, in or out."""

    async def store(request: Request) -> Response:
        files, sha256 = core.get().registry.files, request.path_params["sha256"]
        there = await files.find(sha256) is not None
        stored = await files.put(incoming(request), sha256=sha256)
        return json_answer(render_registry.stored(stored), 200 if there else 201)

    async def find(request: Request) -> Response:
        found = await core.get().registry.files.find(request.path_params["sha256"])
        if found is None:
            return Response(status_code=404)
        headers = {"content-length": str(found.bytes), "etag": f'"{found.sha256}"'}
        return Response(headers=headers, media_type="application/octet-stream")

    async def fetch(request: Request) -> Response:
        registry, asked = core.get().registry, request.path_params
        version = await registry.versions.get(asked["ref"], str(SemVer(asked["version"])))
        file = _file(version, asked["path"])
        return Download(registry.files.get(file.sha256), file)

    one, file = f"{PREFIX}/{{sha256}}", "/api/v1/models/{ref}/versions/{version}/files/{path:path}"
    return [
        HotRoute(one, store, permission="operate", operation=STORE, method="PUT", bounded=False),
        HotRoute(one, find, permission="read", operation=FIND, method="HEAD"),
        HotRoute(file, fetch, permission="read", operation=DOWNLOAD, method="GET"),
    ]


def artifact_router(core: Core) -> APIRouter:
    """Uploads past ModelMora, and what nothing refers to."""
    router = APIRouter(prefix=PREFIX, tags=["artifacts"])

    @router.post("/uploads", **route("operate", UPLOAD, status=201))
    async def begin_upload() -> Response:
        """An address that takes a file by one PUT, past ModelMora, where the object store has such."""
        return json_answer(render_registry.upload(await core.get().registry.files.presign()), 201)

    @router.post("/uploads/{name}", **route("operate", STORED))
    async def adopt_upload(name: str) -> Response:
        """What was put there, from now on under its digest."""
        return json_answer(render_registry.stored(await core.get().registry.files.adopt(name)))

    @router.post("/gc", **route("admin", COLLECTED, body=Sweep, body_required=False))
    async def collect_garbage(request: Request) -> Response:
        """Removes what no version refers to and was put there longer than `older_than_s` ago (an hour)."""
        files, body = core.get().registry.files, await taken_if_any(request, Sweep)
        collected = await files.collect(older_than_s=body.older_than_s)
        return json_answer({"removed": collected.removed, "bytes": collected.bytes})

    return router


def _file(version: ModelVersion, path: str) -> ArtifactFile:
    """Raises VersionNotFound for a path that is none of its files, naming some that are."""
    if version.artifact is None:
        said = f"the files of {version.key} are not in the object store: it is declared with {version.source}"
        raise VersionNotFound(said, field="path", found=path[:80])
    for file in version.artifact.files:
        if file.path == path:
            return file
    some = ", ".join(file.path for file in version.artifact.files[:5])
    raise VersionNotFound(f"{version.key} has no file {path[:80]!r}", field="path", found=path[:80], expected=some)
