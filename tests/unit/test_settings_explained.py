"""What `modelmora config` has to print."""

from __future__ import annotations

import re
from pathlib import Path

from modelmora.settings import Explained, Settings

DOCS = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def explained(settings: Settings) -> dict[str, Explained]:
    return {each.variable: each for each in settings.explain()}


def test_every_value_is_told_with_its_source(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("MODELMORA_GRPC_PORT=9090\nMODELMORA_HTTP_PORT=1\n")
    rows = explained(Settings.load({"MODELMORA_HTTP_PORT": "8080"}, env_file=dotenv))
    told = {name.removeprefix("MODELMORA_"): (row.value, row.source, row.default) for name, row in rows.items()}
    assert told["HTTP_PORT"] == ("8080", "environment", "3000")
    assert told["GRPC_PORT"] == ("9090", ".env", "50051")
    assert told["API_WORKERS"] == ("1", "default", "1")
    assert told["ALLOW_ANONYMOUS"] == ("false", "default", "false")


def test_values_are_written_as_the_variables_take_them() -> None:
    given = {"MODELMORA_HTTP_CORS_ORIGINS": "https://a,https://b", "MODELMORA_ALLOW_ANONYMOUS": "yes"}
    rows = explained(Settings.load(given, env_file=None))
    assert rows["MODELMORA_HTTP_CORS_ORIGINS"].value == "https://a,https://b"
    assert rows["MODELMORA_ALLOW_ANONYMOUS"].value == "true"
    assert rows["MODELMORA_API_DECODE_THREADS"].value == ""
    again = {row.variable: row.value for row in rows.values()}
    assert Settings.load(again, env_file=None).model_dump() == Settings.load(given, env_file=None).model_dump()


def test_passwords_are_masked() -> None:
    url = "postgresql+asyncpg://me:se:cret@db:5432/modelmora"
    row = explained(Settings.load({"MODELMORA_DATABASE_URL": url}, env_file=None))["MODELMORA_DATABASE_URL"]
    assert row.value == "postgresql+asyncpg://me:***@db:5432/modelmora"
    assert row.default.startswith("sqlite+aiosqlite:///")


def test_every_setting_says_what_it_is_about_and_what_it_takes() -> None:
    for row in Settings().explain():
        assert row.about, row.variable
        assert row.takes, row.variable


def test_the_page_of_settings_tells_of_each_one_and_of_no_other() -> None:
    documented = set(re.findall(r"^\| `(MODELMORA_\w+)`", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert documented == set(Settings.variables)
