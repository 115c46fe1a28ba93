"""The registry's routes on the OpenAPI page: what each takes, answers and asks of its caller."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

PREFIXES = ("/api/v1/models", "/api/v1/artifacts", "/api/v1/audit")
ONE = "/api/v1/models/{ref}/versions/{version}"


@pytest.fixture
async def paths(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/openapi.json")).json()["paths"]
    return {path: methods for path, methods in found.items() if path.startswith(PREFIXES)}


def named(operation: dict[str, Any], place: str) -> set[str]:
    return {one["name"] for one in operation.get("parameters", ()) if one["in"] == place}


def test_each_says_what_may_go_wrong(paths: dict[str, Any]) -> None:
    operations = [operation for methods in paths.values() for operation in methods.values()]

    assert len(operations) > 20
    of_registry = [one for one in operations if "4XX" in one["responses"]]
    for operation in of_registry:
        problem = operation["responses"]["4XX"]["content"]["application/problem+json"]
        assert {"code", "detail", "errors"} <= problem["schema"]["properties"].keys()


def test_a_condition_a_key_and_the_filters_are_named(paths: dict[str, Any]) -> None:
    assert named(paths[ONE]["delete"], "header") == {"if-match"}
    assert named(paths["/api/v1/models/{ref}/current"]["put"], "header") == {"if-match"}
    assert named(paths["/api/v1/models"]["post"], "header") == {"idempotency-key"}
    assert named(paths["/api/v1/models"]["get"], "query") == {
        "limit", "cursor", "type", "prefix", "tag", "owner", "order",
    }  # fmt: skip
    assert named(paths[f"{ONE}/diff/{{other}}"]["get"], "path") == {"ref", "version", "other"}


def test_bodies_are_told_whole(paths: dict[str, Any]) -> None:
    body = paths["/api/v1/models/{ref}/versions"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert body["required"] == ["version", "files", "provider"]
    assert body["properties"]["files"]["items"]["required"] == ["path", "bytes", "sha256"]
    assert body["additionalProperties"] is False
    assert "$ref" not in json.dumps(body)


def test_statuses_are_those_that_are_answered(paths: dict[str, Any]) -> None:
    made = [paths[path]["post"]["responses"] for path in ("/api/v1/models", "/api/v1/models/{ref}/versions")]

    assert all("201" in responses and "200" not in responses for responses in made)
    assert paths[ONE]["delete"]["responses"]["204"] == {"description": "OK"}
    assert {"200", "201"} <= paths["/api/v1/artifacts/{sha256}"]["put"]["responses"].keys()
