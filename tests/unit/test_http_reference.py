"""The page of every route is what the server says of itself."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from api.http.reference import reference, served

PAGE = Path(__file__).parents[2] / "docs" / "http-reference.md"
AGAIN = "it is not what /openapi.json says: python -m api.http.reference > docs/http-reference.md"


async def test_the_page_is_made_of_what_is_served() -> None:
    with capture_logs():
        description = await served()
    assert PAGE.read_text() == reference(description), AGAIN


async def test_every_route_is_there_with_its_permission() -> None:
    with capture_logs():
        description = await served()
    page = PAGE.read_text()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            section = page.partition(f"### {method.upper()} {path}\n")[2].partition("\n### ")[0]
            assert f"Permission: `{operation.get('x-permission', 'none')}`" in section, (method, path)
