"""Every route and every RPC declares what it asks of its caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from fastapi.routing import APIRoute
from google.protobuf import descriptor_pool
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from api.core import Core
from api.grpc.server import GrpcServer
from api.http.app import create_app
from api.http.routes import PERMISSION, HotRoute
from api.permissions import RPC_PERMISSIONS, Permission

PERMISSIONS = set(get_args(Permission))
PAGES = {"/openapi.json", "/docs", "/docs/oauth2-redirect"}

Served = tuple[str, str, str | None]


def served_routes(routes: Iterable[BaseRoute]) -> Iterator[Served]:
    """(path, method, permission) of all that is served, but for FastAPI's own pages."""
    for route in routes:
        included: Any = getattr(route, "original_router", None)  # how FastAPI holds an included router
        match route:
            case HotRoute():
                yield route.path, route.method, route.permission
            case APIRoute(openapi_extra=extra):
                yield from ((route.path, m.lower(), (extra or {}).get(PERMISSION)) for m in route.methods or ())
            case Route() if route.path in PAGES:
                continue
            case Mount(path=""):  # the application behind ours
                continue
            case _ if included is not None:
                yield from served_routes(included.routes)
            case _:
                yield repr(route), "?", None


def test_every_route_declares_a_permission(core: Core) -> None:
    served = list(served_routes(create_app(core, max_body_bytes=1, fallback=Starlette()).routes))

    assert len(served) > 10
    assert [one for one in served if one[2] not in PERMISSIONS] == []


def test_what_changes_models_asks_for_operate_and_inference_for_infer(core: Core) -> None:
    asked = {
        (path, method): permission
        for path, method, permission in served_routes(create_app(core, max_body_bytes=1).routes)
    }

    posted = {path: permission for (path, method), permission in asked.items() if method == "post"}
    assert posted.pop("/v2/repository/index") == "read"  # the protocol asks by POST
    assert posted.pop("/api/v1/artifacts/gc") == "admin"  # what it removes is gone
    assert set(posted.values()) == {"infer", "operate"}
    deleted = {path: permission for (path, method), permission in asked.items() if method == "delete"}
    assert deleted.pop("/v1/images/{id}") == "infer"  # who brings pictures takes them away
    made_again = {path for path in deleted if path.startswith(("/api/v1/indexes/", "/api/v1/dead-letters"))}
    assert {deleted.pop(path) for path in made_again} == {"operate"}
    assert set(deleted.values()) == {"admin"}
    assert {permission for (_, method), permission in asked.items() if method in ("put", "patch")} == {"operate"}
    assert {path for (path, _), permission in asked.items() if permission == "none"} == {
        "/livez",
        "/readyz",
        "/health",
        "/version",
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        "/models",
        "/assets/{name}",
    }
    assert asked["/v1/embeddings", "post"] == "infer"
    assert asked["/api/v1/models/{ref}/unload", "post"] == "operate"


async def test_every_rpc_declares_a_permission(grpc_server: GrpcServer) -> None:
    served = {f"/{service}/{method}" for service in grpc_server.services for method in methods_of(service)}

    assert len(served) > 6
    assert served - RPC_PERMISSIONS.keys() == set()
    assert set(RPC_PERMISSIONS.values()) <= PERMISSIONS


async def test_no_permission_is_declared_for_an_rpc_that_is_gone(grpc_server: GrpcServer) -> None:
    served = {f"/{service}/{method}" for service in grpc_server.services for method in methods_of(service)}

    ours = {rpc for rpc in RPC_PERMISSIONS if rpc.startswith(("/modelmora.", "/inference."))}
    assert ours - served == set()


def methods_of(service: str) -> list[str]:
    return [m.name for m in descriptor_pool.Default().FindServiceByName(service).methods]
