"""Every test that a page of the docs names as the one that holds a sentence is there."""

from __future__ import annotations

import re

from tests.architecture.tree import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_docs_name_exists() -> None:
    named = {match for page in (ROOT / "docs").glob("*.md") for match in NAMED.findall(page.read_text())}
    assert len(named) > 20
    for file, name in sorted(named):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file} has no {name}"
