"""The web pages and what they are made of: files of the package, nothing from anywhere else."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.http.routes import HotRoute

FOLDER = Path(__file__).resolve().parents[1] / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
GUARDED = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
PAGES = {"/": "index.html", "/models": "models.html"}


def web_routes() -> list[HotRoute]:
    """The pages, and `/assets/...`."""

    async def page(request: Request) -> Response:
        return answer(PAGES[request.url.path], request)

    async def asset(request: Request) -> Response:
        return answer(request.path_params["name"], request)

    told = {"responses": {"200": {"description": "A page, or a part of one."}}, "tags": ["pages"]}
    pages = [
        HotRoute(path, page, permission="none", operation={"summary": "A web page", **told}, method="GET")
        for path in PAGES
    ]
    operation = {
        "summary": "A part of the web pages",
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        **told,
    }
    return [*pages, HotRoute("/assets/{name}", asset, permission="none", operation=operation, method="GET")]


def answer(name: str, request: Request) -> Response:
    """The file, or 304 for who has it. Raises HTTPException (404) for one that is not there."""
    if name not in names():
        raise HTTPException(404, f"/assets/{name}")
    data, tag = content(name)
    headers = {**GUARDED, "etag": tag, "cache-control": "no-cache"}
    known = request.headers.get("if-none-match", "").split(",")
    if tag in {one.strip().removeprefix("W/") for one in known}:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=TYPES[Path(name).suffix])


@cache
def names() -> frozenset[str]:
    """The files there are: nothing else can be asked for."""
    return frozenset(path.name for path in FOLDER.iterdir() if path.suffix in TYPES)


@cache
def content(name: str) -> tuple[bytes, str]:
    """Bytes and their tag, read once."""
    data = (FOLDER / name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
