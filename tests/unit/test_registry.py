"""ModelRegistry.yaml: what it declares."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import Batching, GroupSpec, ModelSpec
from registry.declared import load
from registry.schema import in_bytes, in_seconds, json_schema

REGISTRY = Path(__file__).resolve().parents[2] / "registry"
SHIPPED = REGISTRY / "ModelRegistry.yaml"
EXPORTED = REGISTRY / "ModelRegistry.schema.json"

MODEL = "{name: a, version: 1.0.0, type: embedding, provider: noop, source: 'bundled:a'%s}"


def declare(folder: Path, text: str) -> Catalogue:
    file = folder / "ModelRegistry.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def declare_model(folder: Path, more: str) -> ModelSpec:
    return declare(folder, f"version: 1\nmodels:\n- {MODEL % more}\n").models[0]


def declare_group(folder: Path, group: str) -> GroupSpec:
    return declare(folder, f"version: 1\ngroups:\n  gpu: {group}\nmodels: []\n").group("gpu")


def test_the_shipped_file_declares_a_model_that_needs_no_network_and_real_ones() -> None:
    catalogue = load(SHIPPED)
    default = catalogue.default("embedding")
    assert (default.key, default.provider, default.source) == ("shapes-clip@1.0.0", "open_clip", "bundled:shapes-clip")
    assert default.warmup
    masks = catalogue.default("segmentation")
    assert (masks.key, masks.provider, masks.source) == ("shapes-sam@1.0.0", "sam", "bundled:shapes-sam")
    assert not masks.warmup
    fetched = {model.name: model for model in catalogue.models if not model.default}
    assert not any(model.warmup for model in fetched.values())
    assert {name: (model.provider, model.source) for name, model in fetched.items()}.items() >= {
        "clip-vit-b-32": ("open_clip", "hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        "clip-vit-l-14": ("open_clip", "hub:laion/CLIP-ViT-L-14-laion2B-s32B-b82K"),
        "dinov2-large": ("dinov2", "hub:facebook/dinov2-large"),
        "dinov2-small": ("dinov2", "hub:facebook/dinov2-small"),
        "vit-base": ("classifier", "hub:google/vit-base-patch16-224"),
        "resnet-50": ("classifier", "hub:microsoft/resnet-50"),
        "resnet-50-onnx": ("onnx", "hub:Xenova/resnet-50"),
    }.items()
    assert catalogue.groups == (GroupSpec(name="default", workers=1),)


def test_only_the_essentials_have_to_be_declared(tmp_path: Path) -> None:
    catalogue = declare(tmp_path, f"version: 1\nmodels: [{MODEL % ''}]\n")
    assert catalogue.models == (
        ModelSpec(name="a", version="1.0.0", type="embedding", provider="noop", source="bundled:a"),
    )
    assert catalogue.groups == (GroupSpec(),)


def test_everything_can_be_declared(tmp_path: Path) -> None:
    catalogue = declare(
        tmp_path,
        """
version: 1
groups:
  gpu:
    workers: 2
    resources: {cpu: 1.5, gpu: [0, 2], memory: 4GiB}
models:
  - name: a.b_c-1
    version: 1.2.3-rc.1+build
    type: segmentation
    provider: sam
    source: hub:org/name@abc123
    group: gpu
    default: true
    config: {points: {grid: 16}, labels: [x, y]}
    device: cuda:1
    precision: bf16
    engine: auto
    batching: {max_batch: 4, max_wait_ms: 0, queue: 10}
    warmup: false
    pin: true
    idle_ttl: 10m
""",
    )
    assert catalogue.models == (
        ModelSpec(
            name="a.b_c-1",
            version="1.2.3-rc.1+build",
            type="segmentation",
            provider="sam",
            source="hub:org/name@abc123",
            group="gpu",
            default=True,
            config={"points": {"grid": 16}, "labels": ["x", "y"]},
            device="cuda:1",
            precision="bf16",
            engine="auto",
            batching=Batching(max_batch=4, max_wait_ms=0, queue=10),
            warmup=False,
            pin=True,
            idle_ttl_s=600.0,
        ),
    )
    assert catalogue.groups == (GroupSpec(name="gpu", workers=2, cpu=1.5, gpus=(0, 2), memory_bytes=4 * 2**30),)


def test_gpus_are_a_count_or_indices(tmp_path: Path) -> None:
    assert declare_group(tmp_path, "{resources: {gpu: 2}}").gpus == (0, 1)
    assert declare_group(tmp_path, "{resources: {gpu: [1, 3]}}").gpus == (1, 3)
    assert declare_group(tmp_path, "{}").gpus == ()


@pytest.mark.parametrize(
    ("declared", "bytes_"),
    [(4096, 4096), ("4GiB", 4 * 2**30), ("500MB", 500_000_000), ("1.5 KiB", 1536), ("7B", 7), ("2TB", 2 * 10**12)],
)
def test_memory_is_bytes_or_a_size(declared: int | str, bytes_: int) -> None:
    assert in_bytes(declared) == bytes_


@pytest.mark.parametrize(
    ("declared", "seconds"),
    [(90, 90.0), (0.5, 0.5), ("10m", 600.0), ("1.5h", 5400.0), ("250ms", 0.25), ("1d", 86_400.0)],
)
def test_a_time_is_seconds_or_has_a_unit(declared: float | str, seconds: float) -> None:
    assert in_seconds(declared) == seconds


def test_the_default_group_is_there_when_something_is_in_it(tmp_path: Path) -> None:
    groups = "groups: {gpu: {workers: 2}}"
    both = declare(tmp_path, f"version: 1\n{groups}\nmodels: [{MODEL % ''}]\n")
    assert [group.name for group in both.groups] == ["gpu", "default"]
    one = declare(tmp_path, f"version: 1\n{groups}\nmodels: [{MODEL % ', group: gpu'}]\n")
    assert [group.name for group in one.groups] == ["gpu"]


def test_a_relative_file_source_starts_at_the_folder_of_the_registry(tmp_path: Path) -> None:
    text = f"version: 1\nmodels: [{MODEL.replace('bundled:a', 'file:%s') % ('weights/a', '')}]\n"
    assert declare(tmp_path, text).models[0].source == f"file:{tmp_path}/weights/a"
    text = f"version: 1\nmodels: [{MODEL.replace('bundled:a', 'file:%s') % ('/srv/a', '')}]\n"
    assert declare(tmp_path, text).models[0].source == "file:/srv/a"


def test_several_versions_of_a_model_may_stand_side_by_side(tmp_path: Path) -> None:
    later = (MODEL % "").replace("1.0.0", "2.0.0")
    catalogue = declare(tmp_path, f"version: 1\nmodels: [{MODEL % ''}, {later}]\n")
    assert [model.key for model in catalogue.models] == ["a@1.0.0", "a@2.0.0"]


def test_each_type_may_have_a_default(tmp_path: Path) -> None:
    other = (MODEL % ", default: true").replace("embedding", "classification").replace("name: a", "name: b")
    catalogue = declare(tmp_path, f"version: 1\nmodels: [{MODEL % ', default: true'}, {other}]\n")
    assert (catalogue.default("embedding").name, catalogue.default("classification").name) == ("a", "b")


def test_the_config_is_left_to_the_provider(tmp_path: Path) -> None:
    assert declare_model(tmp_path, ", config: {any: [1, {thing: null}]}").config == {"any": [1, {"thing": None}]}


def test_the_exported_schema_is_current() -> None:
    assert json.loads(EXPORTED.read_text(encoding="utf-8")) == json_schema(), "run: python -m registry.schema"


def test_the_exported_schema_accepts_the_shipped_file_and_refuses_others() -> None:
    schema = json.loads(EXPORTED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert list(validator.iter_errors(shipped)) == []
    shipped["models"][0]["precison"] = "fp32"
    shipped["groups"]["default"]["workers"] = "two"
    assert {error.json_path for error in validator.iter_errors(shipped)} == {"$.models[0]", "$.groups.default.workers"}
