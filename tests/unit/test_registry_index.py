"""ModelRegistry.yaml: how a model's vectors are indexed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmora.domain.pictures.spaces import IndexSettings
from registry.declared import RegistryError, load

SHIPPED = Path(__file__).resolve().parents[2] / "registry" / "ModelRegistry.yaml"
MODEL = """\
version: 1
models:
- name: a
  version: 1.0.0
  type: {type}
  provider: noop
  source: bundled:a
  index: {index}
"""


def declared(folder: Path, index: str, *, type_: str = "embedding") -> IndexSettings | None:
    file = folder / "ModelRegistry.yaml"
    file.write_text(MODEL.format(type=type_, index=index), encoding="utf-8")
    return load(file).models[0].index


def faults(folder: Path, index: str, *, type_: str = "embedding") -> list[str]:
    with pytest.raises(RegistryError) as caught:
        declared(folder, index, type_=type_)
    return [fault.detail.removeprefix("ModelRegistry.yaml:") for fault in caught.value.faults]


def test_the_shipped_model_is_indexed_and_others_are_not() -> None:
    models = {model.name: model.index for model in load(SHIPPED).models}
    assert models.pop("shapes-clip") == IndexSettings()
    assert set(models.values()) == {None}


def test_an_index_is_asked_for_in_a_word_or_with_its_settings(tmp_path: Path) -> None:
    assert declared(tmp_path, "true") == IndexSettings()
    assert declared(tmp_path, "{}") == IndexSettings()
    assert declared(tmp_path, "false") is None
    written = "{m: 8, ef_construct: 64, quantization: int8, always_ram: false, on_disk: true, payload: [year, shot-by]}"
    assert declared(tmp_path, written) == IndexSettings(
        m=8, ef_construct=64, quantization="int8", always_ram=False, on_disk=True, payload=("year", "shot-by")
    )


@pytest.mark.parametrize(
    ("index", "place"),
    [
        ("hnsw", "index"),
        ("1", "index"),
        ("null", "index"),
        ("{m: 2}", "index.m"),
        ("{ef_construct: many}", "index.ef_construct"),
        ("{quantization: int4}", "index.quantization"),
        ("{on_disk: 1}", "index.on_disk"),
        ("{payload: [a.b]}", "index.payload[0]"),
        ("{payload: year}", "index.payload"),
        ("{quantisation: int8}", "index.quantisation"),
    ],
)
def test_wrong_settings_are_one_fault_on_their_line(tmp_path: Path, index: str, place: str) -> None:
    [fault] = faults(tmp_path, index)
    assert fault.startswith(f"8: models[0].{place}: found")


@pytest.mark.parametrize("type_", ["segmentation", "classification", "tensor"])
def test_what_makes_no_vectors_has_no_index(tmp_path: Path, type_: str) -> None:
    assert declared(tmp_path, "false", type_=type_) is None
    [fault] = faults(tmp_path, "true", type_=type_)
    assert fault == f"8: models[0].index: found an index of a {type_} model, takes an index of embedding models"
