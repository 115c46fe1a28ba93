"""Entries of the registry as values: what is refused, what follows from them, and that they survive JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from modelmora.domain.registry.artifact import Artifact, ArtifactFile, digest_of, listed
from modelmora.domain.registry.difference import Difference, differences
from modelmora.domain.registry.entries import Model, ModelVersion, Running
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.provenance import Metric, PerformanceBaseline, TrainingMetadata
from modelmora.domain.registry.semver import SemVer, rank
from modelmora.domain.tensors import TensorSpec
from modelmora.errors import ValidationFailed, WrongState

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
WEIGHTS = ArtifactFile(path="model/weights.safetensors", bytes=7, sha256="ab" * 32)
CONFIG = ArtifactFile(path="config.json", bytes=2, sha256="cd" * 32)
ARTIFACT = Artifact.of("object:somewhere", [WEIGHTS, CONFIG])
VERSION = ModelVersion(
    id="1",
    model="birds",
    version="1.2.0",
    type="classification",
    source=f"object:{ARTIFACT.sha256}",
    artifact=ARTIFACT,
    running=Running(provider="classifier", config={"preprocess": {"size": 224}}, precision="bf16"),
    inputs=(TensorSpec(name="image", dtype="uint8", shape=("batch", 224, 224, 3)),),
    labels=("wren", "rook"),
    training=TrainingMetadata(
        dataset="birds-2026", dataset_sha256="ef" * 32, revision="1a2b3c", parameters={"lr": 1e-3}, parent="birds@1.1.0"
    ),
    baseline=PerformanceBaseline(metrics=(Metric(name="top1", value=0.91, dataset="held-out"),), p50_ms=4.5),
    created_at=NOW,
    changed_at=NOW,
)
MODEL = Model(id="2", name="birds", type="classification", tags=("edge",), created_at=NOW, changed_at=NOW)


@pytest.mark.parametrize("entry", [VERSION, MODEL])
def test_an_entry_survives_json(entry: Any) -> None:
    adapter = TypeAdapter[Any](type(entry))
    assert adapter.validate_json(adapter.dump_json(entry)) == entry


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_are_ordered_as_the_standard_says() -> None:
    ordered = [
        "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
        "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
    ]  # fmt: skip
    for lower, higher in pairwise(map(SemVer, ordered)):
        assert lower < higher
        assert not higher < lower
    assert sorted(map(SemVer, reversed(ordered)), key=lambda one: one.precedence) == list(map(SemVer, ordered))


WORDS = st.from_regex(r"(0|[1-9][0-9]{0,3}|[a-c-]{1,3})", fullmatch=True).filter(
    lambda part: part == "0" or not part.isdigit() or not part.startswith("0")
)
VERSIONS = st.builds(
    lambda core, before, build: f"{'.'.join(map(str, core))}{'-' + '.'.join(before) if before else ''}{build}",
    st.tuples(*[st.integers(0, 12)] * 3),
    st.lists(WORDS, max_size=3),
    st.sampled_from(["", "+b", "+a.1"]),
).map(SemVer)


@given(VERSIONS, VERSIONS)
def test_their_ranks_sort_as_text_as_they_do(one: SemVer, another: SemVer) -> None:
    if one.precedence != another.precedence:
        assert (rank(one).encode() < rank(another).encode()) == (one < another)
    assert (rank(one) == rank(another)) == (one == another)


def test_a_build_makes_another_version_that_is_as_high() -> None:
    one, another = SemVer("1.0.0+a"), SemVer("1.0.0+b")
    assert one != another
    assert not one < another
    assert not another < one


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "v1.0.0", "1.0.0 ", "01.0.0", "1.0.0-", "1.0.0-é", "1.0.0-" + "a" * 200]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed, match="is not a semantic version") as refused:
        SemVer(text)
    assert refused.value.field == "version"


# --- artifacts ---------------------------------------------------------------------------------------------------


def test_an_artifacts_digest_is_what_sha256sum_makes_of_its_list() -> None:
    import hashlib

    lines = f"{'cd' * 32}  config.json\n{'ab' * 32}  model/weights.safetensors\n"
    assert ARTIFACT.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert digest_of([CONFIG, WEIGHTS]) == digest_of([WEIGHTS, CONFIG])
    assert (ARTIFACT.bytes, [file.path for file in ARTIFACT.files]) == (9, ["config.json", "model/weights.safetensors"])


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "a/",
        ".",
        "./a",
        "a\\b",
        "a\nb",
        "a\0b",
        "x" * 600,
        ".manifest",
        ".manifest/x",
        "ü" * 200,
    ],
)
def test_a_path_that_leaves_the_artifact_is_refused(path: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        replace(CONFIG, path=path)
    assert refused.value.field == "files.path"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: replace(CONFIG, sha256="AB" * 32), "files.sha256"),
        (lambda: replace(CONFIG, bytes=-1), "files.bytes"),
        (lambda: Artifact.of("x", []), "files"),
        (lambda: Artifact.of("x", [CONFIG, CONFIG]), "files.path"),
        (lambda: Artifact.of("x", [WEIGHTS, replace(CONFIG, path="model")]), "files.path"),
        (lambda: listed(f"{'ab' * 32}  x\n{'cd' * 32}  x\n".encode()), "files.path"),
        (lambda: Artifact.of("x", [replace(CONFIG, path=f"{'a/' * 240}{n}") for n in range(9_000)]), "files"),
        (lambda: replace(ARTIFACT, sha256="00" * 32), "sha256"),
        (lambda: replace(VERSION, model="Birds"), "name"),
        (lambda: replace(VERSION, version="1"), "version"),
        (lambda: replace(VERSION.running, group="A group"), "group"),
        (lambda: replace(MODEL, tags=("a", "a")), "tags"),
        (lambda: replace(MODEL, tags=tuple(map(str, range(65)))), "tags"),
        (lambda: replace(MODEL, description="x" * 10_001), "description"),
        (lambda: TrainingMetadata(dataset_sha256="ef" * 32), "training.dataset"),
        (lambda: TrainingMetadata(dataset="d", dataset_sha256="ef"), "training.dataset_sha256"),
        (lambda: TrainingMetadata(parent="birds"), "training.parent"),
        (lambda: TrainingMetadata(trained_at=datetime(2026, 1, 1)), "training.trained_at"),
        (lambda: Metric(name="top1", value=float("nan"), dataset="d"), "baseline.metrics.top1"),
        (lambda: Metric(name="top1", value=1.0, dataset=""), "baseline.metrics.dataset"),
        (lambda: PerformanceBaseline(p50_ms=2.0, p95_ms=1.0), "baseline.p95_ms"),
        (lambda: PerformanceBaseline(memory_bytes=-1), "baseline.memory_bytes"),
        (lambda: PerformanceBaseline(metrics=VERSION.baseline.metrics * 2), "baseline.metrics"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(make: Any, field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        make()
    assert refused.value.field == field


# --- what follows from a version ---------------------------------------------------------------------------------


def test_only_an_approved_version_can_be_loaded_and_it_is_loaded_by_its_digest() -> None:
    with pytest.raises(WrongState, match=r"birds@1.2.0 is registered and is not served"):
        VERSION.spec()
    approved = VERSION.moved("validate", at=NOW).moved("approve", at=NOW)
    spec = approved.spec()
    assert (spec.key, spec.source, spec.precision) == ("birds@1.2.0", f"object:{ARTIFACT.sha256}", "bf16")
    assert (approved.row, VERSION.row) == (3, 1)


def test_why_it_did_not_pass_goes_with_the_next_try() -> None:
    failed = VERSION.moved("fail_validation", at=NOW, failure="weights do not fit")
    assert (failed.state, failed.failure) == ("validation_failed", "weights do not fit")
    assert failed.moved("retry", at=NOW).failure == ""


# --- lineage -----------------------------------------------------------------------------------------------------


def version(name: str) -> Node:
    return Node("version", name)


DATA = Node("dataset", "birds-2026@" + "ef" * 32)
LINEAGE = Lineage(
    {
        version("a@2.0.0"): (version("a@1.0.0"), DATA),
        version("b@1.0.0"): (version("a@2.0.0"),),
        version("c@1.0.0"): (version("a@2.0.0"), version("b@1.0.0")),
    }
)


def test_a_versions_parents_are_its_parent_and_its_data() -> None:
    assert VERSION.training.made_of == (version("birds@1.1.0"), DATA)
    assert TrainingMetadata().made_of == ()


def test_ancestors_and_descendants_come_nearest_first_and_once() -> None:
    assert LINEAGE.ancestors(version("c@1.0.0")) == [version("a@2.0.0"), version("b@1.0.0"), DATA, version("a@1.0.0")]
    assert LINEAGE.descendants(DATA) == [version("a@2.0.0"), version("b@1.0.0"), version("c@1.0.0")]
    assert LINEAGE.ancestors(version("unknown@1.0.0")) == []


def test_nothing_is_made_of_itself() -> None:
    with pytest.raises(ValidationFailed, match=r"a@1.0.0 cannot be made of c@1.0.0, which is made of it"):
        LINEAGE.refuse_circle(version("a@1.0.0"), [version("c@1.0.0")])
    with pytest.raises(ValidationFailed):
        LINEAGE.refuse_circle(DATA, [DATA])
    LINEAGE.refuse_circle(version("d@1.0.0"), [version("c@1.0.0"), DATA])


# --- differences -------------------------------------------------------------------------------------------------


def test_differences_are_told_by_their_paths() -> None:
    before = {"labels": ["a", "b"], "baseline": {"p50_ms": 1.0}, "training": {"parent": None}, "state": "approved"}
    after = {"labels": ["a", "c", "d"], "baseline": {"p50_ms": 1.0}, "training": {}, "row": 2, "state": "approved"}
    assert differences(before, after) == [
        Difference(path="labels[1]", kind="changed", before="b", after="c"),
        Difference(path="labels[2]", kind="added", after="d"),
        Difference(path="row", kind="added", after=2),
        Difference(path="training.parent", kind="removed", before=None),
    ]


KEYS = st.text("abc", min_size=1, max_size=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=3)


@given(OBJECTS, OBJECTS)
def test_two_objects_have_no_differences_only_when_they_are_the_same(
    one: dict[str, Any], another: dict[str, Any]
) -> None:
    import json

    assert differences(one, one) == []
    same = json.dumps(one, sort_keys=True) == json.dumps(another, sort_keys=True)
    assert (differences(one, another) == []) == same
    assert len(differences(one, another)) == len(differences(another, one))
