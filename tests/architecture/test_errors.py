"""Every error has a code of its own, a status, and its place in the drawing."""

from __future__ import annotations

import re

import grpc
import pytest

from api.errors import STATUSES
from modelmora import errors
from modelmora.errors import RETRYABLE, InternalError, ModelMoraError, from_code, leaves


def children(error: type[ModelMoraError]) -> list[type[ModelMoraError]]:
    """Those of the tree itself: other modules may have special cases of their own."""
    return [child for child in error.__subclasses__() if child.__module__ == errors.__name__]


def branches(root: type[ModelMoraError]) -> list[type[ModelMoraError]]:
    return [root, *(below for child in children(root) for below in branches(child))]


def drawn() -> list[tuple[int, str, str | None]]:
    """(depth, class, code) of each line of the drawing."""
    lines = re.findall(r"^    ([│├└─ ]*)([A-Z]\w+)(?: +(\w+)(?=\s|$))?", errors.__doc__ or "", re.M)
    codes = {leaf.code for leaf in leaves()}
    return [(len(indent) // 4, name, code if code in codes else None) for indent, name, code in lines]


def test_every_leaf_has_a_code_of_its_own() -> None:
    codes = [leaf.code for leaf in leaves()]

    assert len(codes) == len(set(codes)) > 20
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert all("code" in vars(leaf) for leaf in leaves())


def test_every_code_has_a_row_and_every_row_a_code() -> None:
    assert set(STATUSES) == {leaf.code for leaf in leaves()}


def test_a_branch_has_the_code_of_one_of_its_leaves() -> None:
    for branch in branches(ModelMoraError):
        assert branch.code in {leaf.code for leaf in leaves(branch)}, branch


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.code)
def test_a_code_turns_back_into_its_error(leaf: type[ModelMoraError]) -> None:
    error = from_code(leaf.code, "why", retry_after_s=2.0)

    assert type(error) is leaf
    assert (error.detail, str(error), error.retry_after_s) == ("why", "why", 2.0)


def test_a_code_nobody_knows_is_an_internal_error() -> None:
    assert type(from_code("from_the_future", "why")) is InternalError


def test_the_rows_are_statuses_of_errors() -> None:
    for code, row in STATUSES.items():
        assert 400 <= row.http < 600, code
        assert row.grpc is not grpc.StatusCode.OK, code
        assert row.title.strip(), code


def test_input_errors_are_the_callers_and_the_rest_of_4xx_is_of_access_existence_or_state() -> None:
    for leaf in leaves(errors.InputError):
        assert STATUSES[leaf.code].http < 500, leaf
    for leaf in leaves(errors.Unavailable):
        assert STATUSES[leaf.code].http == 503, leaf


def test_what_clients_may_repeat_says_when() -> None:
    assert {code for code, row in STATUSES.items() if row.retry} >= RETRYABLE


def test_the_drawing_names_every_class_in_its_place_with_its_code() -> None:
    def tree(error: type[ModelMoraError], depth: int = 0) -> list[tuple[int, str, str | None]]:
        below = children(error)
        line = (depth, error.__name__, None if below else error.code)
        return [line, *(row for child in below for row in tree(child, depth + 1))]

    assert drawn() == tree(ModelMoraError)
