"""The dashboards of deploy/: questions that Prometheus takes, about metrics and labels that exist, and all of them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contracts.test_alerts import DEPLOY, HERE, SUFFIXES, rules, said, tool

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
ADDED = {"le", "instance", "job"}
"""Labels that are not ours: of buckets, and of what Prometheus adds."""

_ROW = re.compile(r"^\| `(modelmora_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
_SELECTED = re.compile(r"(modelmora_\w+)\{([^}]*)\}")


def catalogue() -> dict[str, set[str]]:
    """Each metric's labels."""
    text = (HERE / "docs" / "metrics.md").read_text()
    return {name: set(re.findall(r"`([a-z]+)`", labels.split(":")[0])) for name, _, labels in _ROW.findall(text)}


def panels(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
    return found


def asked(file: Path) -> list[str]:
    return [target["expr"] for panel in panels(file) for target in panel.get("targets", ())]


def base(name: str) -> str:
    return name if name in catalogue() else re.sub(SUFFIXES, "", name)


def concrete(expression: str) -> str:
    """With what Grafana puts in."""
    return expression.replace("$__rate_interval", "1m").replace("$model", ".*")


def test_there_are_three() -> None:
    assert [file.stem for file in DASHBOARDS] == ["engine", "ingestion", "service"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_prometheus_takes_every_question(file: Path, tmp_path: Path) -> None:
    records = [{"record": f"x:{n}", "expr": concrete(expr)} for n, expr in enumerate(asked(file))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    assert f"SUCCESS: {len(records)} rules" in said(tool("promtool"), "check", "rules", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_panel_asks_for_metrics_and_labels_that_exist(file: Path) -> None:
    known, recorded = catalogue(), {rule["record"] for rule in rules() if "record" in rule}
    for expression in asked(file):
        assert set(re.findall(r"modelmora:[\w:]+", expression)) <= recorded, expression
        names = {base(name) for name in re.findall(r"\bmodelmora_\w+", expression)}
        assert names <= known.keys(), expression
        labels = set().union(*(known[name] for name in names)) | ADDED
        for name, selectors in _SELECTED.findall(expression):
            assert set(re.findall(r"(\w+)[=!]~?\"", selectors)) <= known[base(name)], expression
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", grouped)) <= labels, expression


def test_every_metric_is_on_a_panel() -> None:
    shown = {base(name) for file in DASHBOARDS for text in asked(file) for name in re.findall(r"\bmodelmora_\w+", text)}
    assert catalogue().keys() - shown == set()


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_say_what_they_show_and_lie_beside_each_other(file: Path) -> None:
    all_panels = panels(file)
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    for panel in all_panels:
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
    for one, other in itertools.combinations([panel["gridPos"] for panel in all_panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
        assert one["x"] + one["w"] <= 24


def test_grafana_is_told_of_a_prometheus_and_of_the_dashboards() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert [source["type"] for source in sources] == ["prometheus", "jaeger"]
    providers = yaml.safe_load((folder / "dashboards" / "modelmora.yml").read_text())["providers"]
    assert providers[0]["options"]["path"] == "/var/lib/grafana/dashboards"
