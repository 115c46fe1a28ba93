"""The examples of the documentation: the blocks of shell and Python on its pages, and who runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("sh", "python")
PROGRAMS = ("js", "go")
"""Whole programs, run by tests/e2e/test_other_languages.py."""
NOT_CODE = ("json", "yaml", "mermaid")

ELSEWHERE: Mapping[str, str] = {
    "docs/adding-a-provider.md": "tests/e2e/test_adding_a_provider.py",
    "docs/backup.md": "tests/e2e/test_backup_served.py",
    "docs/client.md": "tests/doors/test_client_docs.py",
    "docs/events.md": "tests/contracts/test_events_docs.py",
    "docs/open-inference.md": "tests/e2e/test_oip.py",
    "docs/openai.md": "tests/e2e/test_openai.py",
    "docs/predicting.md": "tests/e2e/test_tensor_docs.py",
    "docs/registry-http.md": "tests/doors/test_http_registry_docs.py",
    "docs/sdk-images.md": "tests/doors/test_client_images.py",
    "docs/tensors.md": "tests/e2e/test_tensor_docs.py",
}
"""Pages whose every example is run by a test of their own; those of the others by tests/e2e/test_examples.py."""

NOT_RUN: Mapping[str, str] = {
    "make serve": "sets up and serves: what every test of tests/e2e does in its own way",
    "modelmora pull clip-vit-b-32": "fetches 605 MB from a hub; tests/contracts/test_artifacts.py has a hub of its own",
    "' bentoml serve": "serves; tests/e2e/test_openai.py starts a server with this setting",
    "-m subscribers": "takes a broker and stores; tests/e2e/test_pictures_served.py starts it with all of them",
    "jaegertracing/jaeger": "takes a container; tests/e2e/test_pictures_served.py has a collector of its own",
    "make image": "takes a container engine and minutes; tests/e2e/test_image.py builds and runs it",
    "make bento": "as above",
    "docker run": "as above",
    "make lock-torch": "takes torch's own index",
    "-m wiring.carry": "a model of one's own; tests/models/test_carried.py runs it",
    "-m load.profiles": "takes locust, in an environment of its own; tests/unit/test_load_profiles.py tries its parts",
    "-m load.bench": "measures for minutes to hours; tests/unit/test_bench_*.py try its parts",
}
"""What marks an example that is run nowhere as it stands, and why."""

_FENCE = re.compile(r"^```(\w*)$")
_HEADING = re.compile(r"^#+ +(.*)$")


@dataclass(frozen=True, slots=True)
class Example:
    """A block of a page, under the heading of which `anchor` is GitHub's name."""

    page: str
    anchor: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}#{self.anchor}"


def pages() -> list[str]:
    """README and all of docs/, relative to the source."""
    return ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


@cache
def anchors(page: str) -> tuple[str, ...]:
    """Of the page's headings."""
    return tuple(anchor for anchor, _, _ in _parsed(page))


@cache
def examples(page: str) -> tuple[Example, ...]:
    """In their order."""
    return tuple(
        Example(page, anchor, language, code) for anchor, language, code in _parsed(page) if language in LANGUAGES
    )


def programs(page: str) -> list[Example]:
    """Those in other languages."""
    return [Example(page, anchor, language, code) for anchor, language, code in _parsed(page) if language in PROGRAMS]


def why_not_run(example: Example) -> str | None:
    """The reason why no test runs it as it stands."""
    return next((why for mark, why in NOT_RUN.items() if mark in example.code), None)


def runnable(page: str) -> list[Example]:
    """Those that are run by tests."""
    return [example for example in examples(page) if why_not_run(example) is None]


@cache
def _parsed(page: str) -> list[tuple[str, str, str]]:
    """Anchor, language and code of each block; a heading is one with neither."""
    found, anchor, language, code = list[tuple[str, str, str]](), "", None, list[str]()
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines(keepends=True):
        fence = _FENCE.match(line.rstrip("\n"))
        if language is not None:
            if line.startswith("```"):
                found.append((anchor, language, "".join(code)))
                language, code = None, []
            else:
                code.append(line)
        elif fence:
            language = fence.group(1)
        elif heading := _HEADING.match(line):
            anchor = _slug(heading.group(1))
            found.append((anchor, "", ""))
    return found


def _slug(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")
