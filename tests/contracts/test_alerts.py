"""The rules of deploy/ are ones that Prometheus takes and fire when they should; each has a test and a way out."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).resolve().parents[2]
DEPLOY = HERE / "deploy"
UNPACKED = HERE / ".venv" / "prometheus" / "usr" / "bin"
SUFFIXES = r"_(bucket|sum|count)$"


def tool(name: str) -> str:
    """Debian's, as `make components` brings it, or the path's."""
    found = shutil.which(name, path=str(UNPACKED)) or shutil.which(name)
    assert found, f"{name} is not here: make prometheus"
    return found


def said(*command: str) -> str:
    """What it printed; fails with that where it failed."""
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    files = [DEPLOY / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def metrics() -> set[str]:
    return set(re.findall(r"^\| `(modelmora_\w+)`", (HERE / "docs" / "metrics.md").read_text(), re.MULTILINE))


def named_in(expression: str) -> set[str]:
    names = set(re.findall(r"\bmodelmora_\w+", expression))
    return {name if name in metrics() else re.sub(SUFFIXES, "", name) for name in names}


def test_prometheus_takes_its_settings_and_rules() -> None:
    assert "SUCCESS" in said(tool("promtool"), "check", "config", "--lint=all", "prometheus.yml")
    assert "SUCCESS" in said(tool("promtool"), "check", "rules", "--lint=all", "recording.yml", "alerts.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    assert "SUCCESS" in said(tool("promtool"), "test", "rules", "alerts_test.yml")


def test_alertmanager_takes_its_routes() -> None:
    assert "SUCCESS" in said(tool("amtool"), "check-config", "../alertmanager/alertmanager.yml")


@pytest.mark.parametrize(("severity", "receivers"), [("page", "pagerduty,slack"), ("ticket", "slack")])
def test_who_is_told(severity: str, receivers: str) -> None:
    asked = ("config", "routes", "test", "--config.file=../alertmanager/alertmanager.yml", f"severity={severity}")
    assert said(tool("amtool"), *asked).strip() == receivers


def test_every_alert_has_a_case_that_fires_a_severity_and_a_section_of_the_runbook() -> None:
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in cases for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    sections = set(re.findall(r"^## (\w+)$", (HERE / "docs" / "runbook.md").read_text(), re.MULTILINE))
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}
    assert fired == set(alerts()) == {section for section in sections if section.startswith("ModelMora")}


def test_a_rule_names_metrics_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert named_in(rule["expr"]) <= metrics(), rule
        assert set(re.findall(r"\bmodelmora:[\w:]+", rule["expr"])) <= recorded, rule
