"""The web pages as files: who gets them, how they are guarded, and that they hold together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from api.core import Core
from api.http.app import create_app
from api.http.web import FOLDER, PAGES, TYPES
from tests.doors.conftest import MAX_BODY

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
MARKUP = [name for name in FILES if name.endswith(".html")]
PAGE_OF = {"search.js": "index.html", "upload.js": "index.html", "models.js": "models.html"}


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*PAGES])
async def test_a_page_is_html_that_runs_nothing_from_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text == text(PAGES[path])
    policy = dict(one.strip().partition(" ")[::2] for one in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'self'",
        "img-src": "'self' blob: data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
async def test_a_part_has_its_type_and_comes_once(http: httpx.AsyncClient, name: str) -> None:
    first = await http.get(f"/assets/{name}")

    assert (first.status_code, first.headers["content-type"]) == (200, TYPES[Path(name).suffix])
    assert first.content == (FOLDER / name).read_bytes()
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await http.get(f"/assets/{name}", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (await http.get(f"/assets/{name}", headers={"if-none-match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    "name", ["absent.js", "web.py", "..%2Fhttp%2Fweb.py", "..%2F..%2FREADME.md", "%2e%2e", "style.css%00", "a/b.js"]
)
async def test_nothing_else_of_the_disk_is_shown(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/assets/{name}")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_the_pages_come_before_those_of_the_application_behind(
    core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    async def behind(request: Request) -> Response:
        return PlainTextResponse("behind")

    other = Starlette(routes=[Route(path, behind) for path in ("/", "/models", "/other")])
    http = serve(create_app(core, max_body_bytes=MAX_BODY, fallback=other))

    assert "ModelMora" in (await http.get("/")).text
    assert "ModelMora" in (await http.get("/models")).text
    assert (await http.get("/other")).text == "behind"
    assert (await http.post("/")).status_code == 405


@pytest.mark.parametrize("name", MARKUP)
def test_markup_has_no_script_or_style_of_its_own(name: str) -> None:
    page = text(name)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all(re.search(r'src="/assets/[\w.]+"></script>', tag) for tag in re.findall(r"<script.*", page))


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_asked_of_another_host(name: str) -> None:
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text(name).replace("http://www.w3.org/2000/svg", ""))
    assert found == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_texts_never_become_markup(name: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text(name))
    assert len(text(name).splitlines()) < 300


@pytest.mark.parametrize("name", [*MARKUP, *SCRIPTS])
def test_every_part_that_is_named_is_there(name: str) -> None:
    for part in re.findall(r"/assets/([\w.-]+)", text(name)):
        assert part in FILES


@pytest.mark.parametrize(("script", "page"), [*PAGE_OF.items(), *(("common.js", page) for page in MARKUP)])
def test_every_element_that_is_asked_for_is_on_the_page(script: str, page: str) -> None:
    ids = re.findall(r'\sid="(\w+)"', text(page))
    assert len(ids) == len(set(ids))
    for wanted in re.findall(r'at\("(\w+)"\)', text(script)):
        assert wanted in ids


@pytest.mark.parametrize("page", MARKUP)
def test_every_field_and_picture_says_what_it_is(page: str) -> None:
    markup = text(page)
    for tag, id_ in re.findall(r'<(input|select)\b[^>]*?\bid="(\w+)"', markup):
        labelled = f'for="{id_}"' in markup or re.search(rf'<label[^<]*<{tag} id="{id_}"', markup)
        assert labelled, f"{tag} {id_} has no label"
    assert all(" alt=" in tag for tag in re.findall(r"<img[^>]*>", markup))
    assert re.search(r'<html lang="\w+">', markup)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in markup


def test_motion_waits_for_who_likes_it() -> None:
    moving = [line for line in text("style.css").splitlines() if "transition" in line or "animation" in line]
    assert moving
    assert all("prefers-reduced-motion: no-preference" in line for line in moving)


def test_a_bento_has_the_pages() -> None:
    included = (Path(__file__).resolve().parents[2] / "bentofile.yaml").read_text()
    assert '  - "api/"\n' in included
    assert '  - "subscribers/"\n' in included
