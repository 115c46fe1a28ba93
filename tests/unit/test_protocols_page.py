"""docs/protocols.md names an example for every protocol, and tests run each of them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests import examples
from tests.examples import ELSEWHERE, ROOT, Example

PAGE = "docs/protocols.md"
ROWS = [line for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
LINKS = [
    pytest.param(target, id=f"{row.split('|')[1].strip()}: {shown}")
    for row in ROWS
    for shown, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", row)
]
TASKS = {"classify", "segment", "predict tensors", "compare models", "embed pictures and texts", "health"}
EVERY = [example for page in examples.pages() for example in examples.examples(page)]


def linked(target: str) -> tuple[str, str]:
    """The page and the anchor of a link in docs/."""
    page, _, anchor = target.partition("#")
    if not page:
        return PAGE, anchor
    return (page.removeprefix("../") if page.startswith("../") else str(PurePosixPath("docs") / page)), anchor


@pytest.mark.parametrize("target", LINKS)
def test_a_row_names_an_example_that_a_test_runs(target: str) -> None:
    page, anchor = linked(target)

    assert anchor in examples.anchors(page)
    run = [*examples.runnable(page), *examples.programs(page)]
    assert [example for example in run if example.anchor == anchor]


def test_every_task_has_a_row_with_http_and_grpc_and_the_client() -> None:
    cells = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in ROWS}

    assert cells.keys() >= TASKS
    assert [(task, number) for task in TASKS for number in range(3) if "](" not in cells[task][number]] == []


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_a_page_with_a_test_of_its_own_has_it(page: str, test: str) -> None:
    text, name = (ROOT / test).read_text(encoding="utf-8"), PurePosixPath(page).name

    assert f'"{name}"' in text or f'"{page}"' in text


@pytest.mark.parametrize("mark", examples.NOT_RUN)
def test_what_is_said_not_to_be_run_is_still_there(mark: str) -> None:
    assert [example for example in EVERY if mark in example.code]


def test_nothing_that_could_be_run_is_overlooked() -> None:
    fences = [
        (page, line)
        for page in examples.pages()
        for line in re.findall(r"^ *(?:`{3,}|~{3,}).*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    ]

    languages = (*examples.LANGUAGES, *examples.PROGRAMS, *examples.NOT_CODE, "{eval-rst}")
    known = {"```", *(f"```{language}" for language in languages)}
    assert [fence for fence in fences if fence[1] not in known] == []


def test_code_within_a_page_is_found_under_its_heading() -> None:
    found = examples.examples("docs/openai.md")

    assert found[0] == Example("docs/openai.md", "v1embeddings-the-openai-client", "python", found[0].code)
    assert found[0].code.startswith("from openai import OpenAI\n")
    assert "pictures-by-url" in {example.anchor for example in found if examples.why_not_run(example)}
