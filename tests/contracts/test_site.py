"""The documentation builds into a site without a warning, and every page of it is whole by itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(made)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    return made


def test_every_page_is_on_it(site: Path) -> None:
    pages = {file.stem for file in (ROOT / "docs").glob("*.md")}
    assert pages <= {file.stem for file in site.glob("*.html")}


def test_its_first_page_is_the_readme(site: Path) -> None:
    first = (site / "index.html").read_text()
    assert "Two commands" in first
    assert 'src="_images/search.png"' in first, "with its pictures"
    assert 'href="settings.html"' in first, "and links that lead to the pages"


def test_the_sdks_reference_has_its_methods_and_errors(site: Path) -> None:
    page = (site / "reference.html").read_text()
    for name in ("generate_embedding", "upload", "search", "load", "DependencyUnavailable"):
        assert name in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert fetched == [], page.name
