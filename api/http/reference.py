"""`python -m api.http.reference > docs/http-reference.md`: every route of HTTP, from the description that is served."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from api.core import Core
from api.http.app import create_app
from modelmora.logs import configure_logging

Json = Mapping[str, Any]

ORDER = (
    "inference", "pictures", "indexes", "models", "versions", "artifacts", "audit", "openai",
    "open inference protocol", "service", "pages",
)  # fmt: skip
_HEAD = """# HTTP, route by route

Made of `/openapi.json`, which has the schemas of answers too; `/docs` of a server shows it. What each is for, with
examples, is [protocols.md](protocols.md). `permission` is what a caller will need once there are identities. Every
route answers errors as RFC 9457 `application/problem+json` with a `code`, takes `X-Request-Id`, `traceparent`, and
where it computes `X-ModelMora-Timeout-Ms` and `X-ModelMora-Priority`.
"""


def reference(description: Json) -> str:
    """The page."""
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["service"])[0]
            by_tag[tag].append(_route(method, path, operation, description))
    tags = [*(tag for tag in ORDER if tag in by_tag), *sorted(by_tag.keys() - set(ORDER))]
    return "\n".join([_HEAD, *(f"## {tag.capitalize()}\n\n" + "\n".join(by_tag[tag]) for tag in tags)])


def _route(method: str, path: str, operation: Json, description: Json) -> str:
    permission = operation.get("x-permission", "none")
    lines = [f"### {method.upper()} {path}", "", f"{_about(operation)} Permission: `{permission}`.", ""]
    rows = [*_parameters(operation), *_bodies(operation, description)]
    if rows:
        lines += ["| in | field | type | |", "| --- | --- | --- | --- |", *rows, ""]
    statuses = ", ".join(f"`{status}`" for status in operation["responses"] if status.isdigit())
    return "\n".join([*lines, f"Answers {statuses}.", ""])


def _about(operation: Json) -> str:
    text = " ".join(str(operation.get("description") or operation.get("summary") or "").split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _parameters(operation: Json) -> Iterator[str]:
    for told in operation.get("parameters", ()):
        needed = "" if told.get("required") else " (optional)"
        yield _row(told["in"], told["name"], _type(told.get("schema", {})) + needed, told.get("description", ""))


def _bodies(operation: Json, description: Json) -> Iterator[str]:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(content.get("schema", {}), description)
        properties = schema.get("properties", {})
        if not properties:
            yield _row(kind, "", _type(schema), schema.get("description", ""))
        for name, field in properties.items():
            needed = "" if name in schema.get("required", ()) else " (optional)"
            yield _row(kind, name, _type(_resolved(field, description)) + needed, field.get("description", ""))


def _row(where: str, name: str, type_: str, about: str) -> str:
    cells = (f"`{where}`", f"`{name}`" if name else "the whole", type_, " ".join(str(about).split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: Json) -> str:
    """As a person says it: `array of string`, `integer or null`."""
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[many])))
    type_ = schema.get("type", "any")
    if type_ == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if type_ == "string" and schema.get("format") == "binary":
        return "file"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return " or ".join(type_) if isinstance(type_, list) else str(type_)


def _resolved(schema: Json, description: Json) -> Json:
    """What a `$ref` of the description stands for; anything else is itself."""
    if "$ref" not in schema:
        return schema
    found: Any = description
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Json = found
    return resolved


async def served() -> Json:
    """The description as a server gives it."""
    transport = httpx.ASGITransport(create_app(Core(), max_body_bytes=1))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/openapi.json")
    found: Json = answer.raise_for_status().json()
    return found


if __name__ == "__main__":
    configure_logging("error", "json", process="reference")
    sys.stdout.write(reference(asyncio.run(served())))
