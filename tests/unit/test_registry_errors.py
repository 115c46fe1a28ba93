"""ModelRegistry.yaml: what is said of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmora.domain.catalogue import Catalogue
from modelmora.errors import Fault, ValidationFailed
from registry.declared import Families, RegistryError, load

FAMILIES = Families(
    ("open_clip", "noop", "dinov2", "sam", "classifier", "onnx", "tensorflow"),
    lambda name: ("segmentation",) if name == "sam" else ("embedding",),
)
HEAD = """\
version: 1
groups:
  gpu: {workers: 2}
models:
"""
GOOD = """\
  - name: a
    version: 1.0.0
    type: embedding
    provider: noop
    source: bundled:a
"""


def lines(folder: Path, text: str | bytes, *, families: Families = FAMILIES) -> list[str]:
    file = folder / "ModelRegistry.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RegistryError) as caught:
        load(file, families=families)
    assert isinstance(caught.value, ValidationFailed)
    details = [fault.detail for fault in caught.value.faults]
    assert all(detail in str(caught.value) for detail in details)
    return details


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
version: 1
groups:
  gpu: {workers: 0}
models:
  - name: Shapes
    version: 1.0
    type: embeding
    provider: openclip
    source: huggingface:org/name
    grup: gpu
"""
    assert [line.removeprefix("ModelRegistry.yaml:") for line in lines(tmp_path, text)] == [
        "3: groups.gpu.workers: found 0, takes worker processes, a whole number from 1",
        "5: models[0].name: found 'Shapes', takes a name of a-z 0-9 . _ - that starts with a letter or digit, "
        "up to 64 characters",
        "6: models[0].version: found 1.0, takes a semantic version such as 1.0.0",
        "7: models[0].type: found 'embeding', takes embedding, segmentation, classification or tensor; "
        "did you mean 'embedding'?",
        "8: models[0].provider: found 'openclip', takes a model family that can be run: classifier, dinov2, noop, "
        "onnx, open_clip, sam, tensorflow; did you mean 'open_clip'?",
        "9: models[0].source: found 'huggingface:org/name', takes bundled:NAME, hub:ORGANISATION/NAME "
        "(optionally @REVISION), file:PATH or object:SHA256",
        "10: models[0].grup: found a key that means nothing here, takes only the keys name, version, type, provider, "
        "source, group, default, config, device, precision, engine, batching, warmup, pin, idle_ttl, index; "
        "did you mean 'group'?",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "gpu"),
        ("precision", "fp8"),
        ("engine", "tensorrt"),
        ("warmup", '"yes"'),
        ("default", "1"),
        ("pin", "null"),
        ("idle_ttl", "10 years"),
        ("idle_ttl", "0"),
        ("config", "[]"),
        ("batching", "{max_batch: 0}"),
        ("batching", "{max_wait_ms: -1}"),
        ("batching", "{queue: many}"),
        ("batching", "{linger: 3}"),
        ("group", "Default"),
        ("group", "3"),
    ],
)
def test_a_wrong_value_is_one_fault_on_its_line(tmp_path: Path, key: str, value: str) -> None:
    [line] = lines(tmp_path, HEAD + GOOD + f"    {key}: {value}\n")
    assert line.startswith(f"ModelRegistry.yaml:10: models[0].{key}")


@pytest.mark.parametrize(
    "resources",
    ["cpu: 0", "cpu: two", "gpu: -1", "gpu: [0, x]", "memory: 4 Gigs", "memory: 0", "memory: 4gib", "gpus: 1"],
)
def test_a_wrong_resource_is_one_fault_on_its_line(tmp_path: Path, resources: str) -> None:
    [line] = lines(tmp_path, f"version: 1\nmodels: []\ngroups:\n  gpu:\n    resources:\n      {resources}\n")
    assert line.startswith(f"ModelRegistry.yaml:6: groups.gpu.resources.{resources.partition(':')[0]}")


@pytest.mark.parametrize("key", ["name", "version", "type", "provider", "source"])
def test_what_is_missing_is_named_where_the_model_begins(tmp_path: Path, key: str) -> None:
    text = "".join(line for line in GOOD.splitlines(keepends=True) if f" {key}:" not in line).replace("    ", "  - ", 1)
    text = (
        text if key == "name" else GOOD.replace(next(line for line in GOOD.splitlines(True) if f" {key}:" in line), "")
    )
    [line] = lines(tmp_path, HEAD + text)
    assert line.startswith(f"ModelRegistry.yaml:5: models[0].{key}: found nothing")


def test_a_group_has_to_be_declared(tmp_path: Path) -> None:
    [line] = lines(tmp_path, HEAD + GOOD + "    group: gpus\n")
    assert line.endswith("found 'gpus', takes a group under `groups`: gpu, default; did you mean 'gpu'?")
    assert line.startswith("ModelRegistry.yaml:10: models[0].group:")


def test_a_group_has_a_plain_name(tmp_path: Path) -> None:
    [line] = lines(tmp_path, "version: 1\nmodels: []\ngroups:\n  My Group: {}\n")
    assert line.startswith("ModelRegistry.yaml:4: groups.My Group: found the name 'My Group'")


@pytest.mark.parametrize("name", ["workers", "resources", "models", "groups"])
def test_a_group_may_be_called_like_a_key(tmp_path: Path, name: str) -> None:
    [line] = lines(tmp_path, f"version: 1\nmodels: []\ngroups:\n  {name}: {{workers: 0}}\n")
    assert (
        line == f"ModelRegistry.yaml:4: groups.{name}.workers: found 0, takes worker processes, a whole number from 1"
    )


def test_a_family_that_cannot_be_run_here_is_refused(tmp_path: Path) -> None:
    [line] = lines(tmp_path, HEAD + GOOD, families=Families(("open_clip", "onnx"), lambda name: ()))
    assert "models[0].provider: found 'noop', takes a model family that can be run: onnx, open_clip" in line


def test_a_family_serves_its_types_of_model_only(tmp_path: Path) -> None:
    [line] = lines(tmp_path, HEAD + GOOD.replace("noop", "sam"))
    assert (
        line == "ModelRegistry.yaml:7: models[0].type: found 'embedding', takes what provider sam serves: segmentation"
    )


def test_a_version_of_a_model_is_declared_once(tmp_path: Path) -> None:
    [line] = lines(tmp_path, HEAD + GOOD + GOOD)
    assert line == (
        "ModelRegistry.yaml:10: models[1].name: found a@1.0.0 a second time, "
        "takes another name or version: a@1.0.0 is on line 5 already"
    )


def test_a_type_has_one_default(tmp_path: Path) -> None:
    text = HEAD + GOOD + "    default: true\n" + GOOD.replace("name: a", "name: b") + "    default: true\n"
    [line] = lines(tmp_path, text)
    assert line == (
        "ModelRegistry.yaml:16: models[1].default: found a second default of type embedding, "
        "takes one default a type: the other is on line 10"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ModelRegistry.yaml:1: the file is empty"),
        ("# nothing\n", "ModelRegistry.yaml:1: the file is empty"),
        ("- a\n", "ModelRegistry.yaml:1: the file: found a list, takes a mapping with version, groups and models"),
        ("just text", "ModelRegistry.yaml:1: the file: found 'just text', takes a mapping"),
        ("a: [1\nb: }", "ModelRegistry.yaml:2: this is not YAML"),
        ("a: 1\n\tb: 1", "ModelRegistry.yaml:2: this is not YAML"),
        ("version: 1\n---\nversion: 1\n", "ModelRegistry.yaml:2: this is not YAML"),
        ("version: 1\nmodels: []\nversion: 1\n", "ModelRegistry.yaml:3: the key 'version' stands here again"),
        ("version: 1\nmodels:\n- &a {}\n- *a\n", "ModelRegistry.yaml:3: aliases"),
        ("version: 1\nmodels: !!python/object:os.system []\n", "ModelRegistry.yaml:2: the tag"),
        ("version: !!python/name:os.system x\n", "ModelRegistry.yaml:1: this value cannot be read"),
        ("version: 1\nmodels: []\n? [a]\n: 1\n", "ModelRegistry.yaml:3: a key must be a word"),
        ("version: 2\nmodels: []\n", "ModelRegistry.yaml:1: version: found 2, takes 1"),
        ("version: 1\nmodels: {}\n", "ModelRegistry.yaml:2: models: found a mapping, takes a list of models"),
        ("version: 1\nmodels: [text]\n", "ModelRegistry.yaml:2: models[0]: found 'text', takes a mapping of name"),
        ("version: 1\n", "ModelRegistry.yaml:1: models: found nothing, takes a list of models"),
        (b"version: \xff", "this is not UTF-8 text"),
        ("\x00", "ModelRegistry.yaml:1: this is not YAML"),
        ("[" * 5000, "ModelRegistry.yaml:1: this is nested too deeply"),
    ],
)
def test_a_file_of_another_kind_is_told_what_is_wrong_with_it(tmp_path: Path, text: str | bytes, told: str) -> None:
    [line] = lines(tmp_path, text)
    assert told in line


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"nowhere\.yaml: there is no such file; MODELMORA_REGISTRY"):
        load(tmp_path / "nowhere.yaml")


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        load(tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
KEYS = st.sampled_from(
    ["version", "groups", "models", "name", "type", "group", "default", "batching", "resources", "workers", "gpu", "x"]
)
DOCUMENTS = st.recursive(SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(KEYS, some, max_size=4))


@given(document=DOCUMENTS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_the_file_says_it_is_a_catalogue_or_an_error_of_ours(tmp_path: Path, document: object) -> None:
    file = tmp_path / "ModelRegistry.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        answer: object = load(file)
    except RegistryError as error:
        answer = error.faults[0]
    assert isinstance(answer, Catalogue | Fault)
