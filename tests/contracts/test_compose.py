"""deploy/compose: what `docker compose` would make of it, and that each service gets what it understands."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from modelmora.settings import Settings
from tests.contracts.test_alerts import DEPLOY, HERE

FOLDER = DEPLOY / "compose"
JUDGE = HERE / ".venv" / "judges" / "compose"
OURS = ("modelmora", "subscriber")
ENDS = "service_completed_successfully"
IMAGE = "/opt/modelmora/src/"
"""Where the image has the source."""
UNASKED = {"jaeger", "buckets"}
"""Nobody waits for these to be healthy."""


def judged(environment: Path) -> subprocess.CompletedProcess[str]:
    assert JUDGE.exists(), "it is not built: make components"
    command = [JUDGE, FOLDER / "compose.yaml", environment]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@cache
def model() -> dict[str, Any]:
    """As compose's own library reads it, with `.env.example`; all profiles."""
    ran = judged(FOLDER / ".env.example")
    assert ran.returncode == 0, ran.stderr
    read: dict[str, Any] = json.loads(ran.stdout)
    return read


def services() -> dict[str, dict[str, Any]]:
    return dict(model()["services"])


def settings(name: str) -> dict[str, str]:
    return {key: value for key, value in services()[name]["environment"].items() if key.startswith("MODELMORA_")}


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets."""
    text = (DEPLOY / "image" / "Dockerfile").read_text().replace("${REGISTRY}", "ModelRegistry.onnx.yaml")
    set_ = re.findall(r"^(?:ENV)? +(MODELMORA_\w+)=(\S+)", text, re.MULTILINE)
    return {key: value.replace(IMAGE, f"{HERE}/") for key, value in set_}


def test_all_that_the_product_can_use_is_there() -> None:
    stores = {"kafka", "minio", "qdrant", "postgres", "redis", "keycloak"}
    watching = {"prometheus", "alertmanager", "grafana", "jaeger"}
    assert services().keys() == {*OURS, "buckets", *stores, *watching}


def test_without_its_passwords_it_says_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    ran = judged(tmp_path / "empty")
    assert ran.returncode != 0
    assert "POSTGRES_PASSWORD is missing a value: see .env.example" in ran.stderr


def test_every_variable_of_the_file_is_in_the_example_and_no_other() -> None:
    used = set(re.findall(r"\$\{(\w+)[:}]", (FOLDER / "compose.yaml").read_text()))
    given = set(re.findall(r"^(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    assert used == given


@pytest.mark.parametrize("name", OURS)
def test_its_settings_are_settings(name: str) -> None:
    loaded = Settings.load({**image_environment(), **settings(name)}, env_file=None)
    assert str(loaded.http.host) == "0.0.0.0"
    if name == "modelmora":
        assert loaded.api.workers == 2


def test_the_end_to_end_tests_use_the_same_settings() -> None:
    """But for servers that contract tests have, and what is another machine's."""
    text = (HERE / "tests" / "e2e" / "stack.py").read_text()
    tried = set(re.findall(r'"(MODELMORA_\w+)":', text)) - {"MODELMORA_SUBSCRIBER_PORT"}
    ours = settings("modelmora") | settings("subscriber")
    other = {"VECTORS_URL", "CACHE_URL", "ALLOW_ANONYMOUS", "API_WORKERS", "LOG_FORMAT"}
    assert tried | {f"MODELMORA_{name}" for name in other} == ours.keys()
    for key, kind in re.findall(r'"(MODELMORA_\w+)": f?"([a-z0-9+]+)://', text):
        assert ours[key].partition("://")[0] == kind, key


@pytest.mark.parametrize("name", OURS)
def test_its_stores_are_services_that_it_waits_for(name: str) -> None:
    hosts = {host for value in settings(name).values() if "://" in value and (host := urlsplit(value).hostname)}
    there = services()
    assert hosts <= there.keys()
    waited = set(there[name].get("depends_on") or {})
    if name == "subscriber":
        waited |= set(there["modelmora"]["depends_on"])  # which it waits for
    assert hosts - UNASKED - {"minio"} <= waited


@pytest.mark.parametrize("name", sorted(yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]))
def test_it_is_pinned_limited_and_asked_for_its_health(name: str) -> None:
    service = services()[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    if name not in OURS:
        assert not service["image"].endswith(":latest")
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"])
    if name not in {*UNASKED, "modelmora"}:  # whose image has its own
        assert service["healthcheck"]["test"]
    for port in service.get("ports", ()):
        assert port["host_ip"] == "127.0.0.1"
    for needed, how in (service.get("depends_on") or {}).items():
        assert how["condition"] == (ENDS if needed == "buckets" else "service_healthy")


@pytest.mark.parametrize("name", OURS)
def test_ours_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert [volume["target"] for volume in service["volumes"]] == [image_environment()["MODELMORA_DATA_DIR"]]


def test_what_is_mounted_is_in_the_repository() -> None:
    mounted = [volume for service in services().values() for volume in service.get("volumes", ())]
    bound = [HERE / volume["source"].removeprefix(f"{HERE}/") for volume in mounted if volume["type"] == "bind"]
    assert len(bound) == 4
    assert [path for path in bound if not path.exists()] == []


def test_who_watches_asks_services_at_their_ports() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target for job in scraped["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert sorted(targets) == ["modelmora:3000", "subscriber:8081"]
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    hosts = {urlsplit(source["url"]).hostname for source in sources["datasources"]}
    assert hosts == {"prometheus", "jaeger"} <= services().keys()


def test_the_broker_is_the_one_that_is_tested() -> None:
    pom = (HERE / "load" / "components" / "pom.xml").read_text()
    tested = re.findall(r"<artifactId>kafka_[^<]*</artifactId>\s*<version>([\d.]+)<", pom)
    assert [services()["kafka"]["image"].rpartition(":")[2]] == tested
