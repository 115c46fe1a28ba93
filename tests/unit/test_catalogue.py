"""The questions asked of the declared models."""

from __future__ import annotations

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, ModelType
from modelmora.errors import ModelNotFound, ValidationFailed, VersionNotFound


def model(
    name: str, version: str = "1.0.0", type_: ModelType = "embedding", *, default: bool = False, group: str = "default"
) -> ModelSpec:
    return ModelSpec(
        name=name, version=version, type=type_, provider="noop", source="bundled:x", default=default, group=group
    )


OLD, NEW = model("clip"), model("clip", "1.1.0")
DEFAULT = model("shapes", default=True)
SAM = model("sam", type_="segmentation", group="gpu")
CATALOGUE = Catalogue((OLD, NEW, DEFAULT, SAM), (GroupSpec(), GroupSpec(name="gpu", workers=2)))


def test_a_name_alone_means_the_version_declared_last() -> None:
    assert CATALOGUE.get(ModelRef("clip")) is NEW


def test_a_version_can_be_named() -> None:
    assert CATALOGUE.get(ModelRef("clip", "1.0.0")) is OLD


def test_an_unknown_name_is_not_found_and_the_nearest_is_told() -> None:
    with pytest.raises(ModelNotFound, match="did you mean 'shapes'"):
        CATALOGUE.get(ModelRef("shape"))
    with pytest.raises(ModelNotFound, match=r"GET /v1/models"):
        CATALOGUE.get(ModelRef("zzzzzz"))


def test_an_unknown_version_is_not_found_and_the_others_are_told() -> None:
    with pytest.raises(VersionNotFound, match=r"clip has no version 3\.0\.0; it has 1\.0\.0, 1\.1\.0"):
        CATALOGUE.get(ModelRef("clip", "3.0.0"))


def test_models_of_a_type_come_with_the_default_first() -> None:
    assert list(CATALOGUE.of_type("embedding")) == [DEFAULT, OLD, NEW]
    assert list(CATALOGUE.of_type("tensor")) == []


def test_a_type_has_a_default_or_says_that_it_has_none() -> None:
    assert CATALOGUE.default("embedding") is DEFAULT
    with pytest.raises(ModelNotFound, match="no segmentation model is the default"):
        CATALOGUE.default("segmentation")


def test_a_group_knows_its_models_and_its_size() -> None:
    assert list(CATALOGUE.in_group("gpu")) == [SAM]
    assert CATALOGUE.group("gpu").workers == 2


@pytest.mark.parametrize("text", ["clip", "clip@1.0.0", "a.b_c-1@1.2.3-rc.1+build.7"])
def test_a_reference_reads_back_as_it_was_written(text: str) -> None:
    assert str(ModelRef.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "@1.0.0", "clip@", "clip@1.0", "clip@01.0.0", "org/clip", "Clip", "-clip", "a" * 65]
)
def test_anything_else_is_no_reference(text: str) -> None:
    with pytest.raises(ValidationFailed, match="not a name"):
        ModelRef.parse(text)
