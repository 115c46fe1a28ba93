"""A folder tells what it holds; what would execute is refused by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmora.errors import ValidationFailed
from modelmora.imports import refuse_executable, sniff


def folder_of(path: Path, **files: Any) -> Path:
    """With these files: bytes as they are, texts, objects as JSON; `__` in a name is a dot, `_IN_` a slash."""
    for name, content in files.items():
        file = path / name.replace("_IN_", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(
            content
            if isinstance(content, bytes)
            else (content if isinstance(content, str) else json.dumps(content)).encode()
        )
    return path


MLFLOW_ONNX = "flavors:\n  onnx: {data: model.onnx}\n  python_function: {loader_module: mlflow.onnx}\n"


@pytest.mark.parametrize(
    ("files", "provider", "type_", "root"),
    [
        ({"open_clip_config__json": {}, "config__json": {"model_type": "clip"}}, "open_clip", "embedding", ""),
        ({"config__json": {"model_type": "dinov2", "architectures": ["Dinov2Model"]}}, "dinov2", "embedding", ""),
        ({"config__json": {"model_type": "dinov2_with_registers"}}, "dinov2", "embedding", ""),
        (
            {"config__json": {"model_type": "dinov2", "architectures": ["Dinov2ForImageClassification"]}},
            "classifier",
            "classification",
            "",
        ),
        (
            {"config__json": {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}},
            "classifier",
            "classification",
            "",
        ),
        ({"config__json": {"model_type": "sam"}}, "sam", "segmentation", ""),
        ({"model__onnx": b"graph"}, "onnx", "tensor", ""),
        ({"saved_model__pb": b"graph", "variables_IN_variables__index": b""}, "tensorflow", "tensor", ""),
        ({"MLmodel": MLFLOW_ONNX, "model__onnx": b"graph"}, "onnx", "tensor", ""),
        (
            {"MLmodel": "flavors: {tensorflow: {data: tf}}", "tf_IN_saved_model__pb": b""},
            "tensorflow",
            "tensor",
            "tf",
        ),
        (
            {
                "MLmodel": "flavors: {transformers: {model_binary: model}}",
                "model_IN_config__json": {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
            },
            "classifier",
            "classification",
            "model",
        ),
    ],
)
def test_the_files_tell_the_family(files: dict[str, Any], provider: str, type_: str, root: str, tmp_path: Path) -> None:
    found = sniff(folder_of(tmp_path, **files))
    assert (found.provider, found.type, found.root) == (provider, type_, root)
    assert found.why


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "nothing"),
        ({"notes__txt": "?"}, "notes.txt"),
        ({"config__json": {"model_type": "bert"}}, "config.json"),
        ({"a__onnx": b"", "b__onnx": b""}, "a.onnx, b.onnx"),
        ({"config__json": "["}, "config.json"),
        ({"config__json": "[]"}, "config.json"),
        ({"MLmodel": "flavors: {python_function: {loader_module: x}, sklearn: {}}"}, "python_function, sklearn"),
        ({"MLmodel": "flavors: {onnx: {data: ../../model.onnx}}"}, "../../model.onnx"),
        ({"MLmodel": "just a text"}, "none"),
        ({"MLmodel": "flavors: {onnx: x}"}, "onnx"),
        ({"MLmodel": "flavors:"}, "none"),
        ({"MLmodel": "{"}, "MLmodel"),
        ({"config__json": {"model_type": "vit", "architectures": 5}}, "config.json"),
        ({"config__json": "[" * 100_000}, "config.json"),
    ],
)
def test_what_is_not_known_is_told_with_what_there_is(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    with pytest.raises(ValidationFailed) as refused:
        sniff(folder_of(inside, **files))
    assert said in str(refused.value.found)


class Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_every_pickle_that_would_execute_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    torch.save({"w": torch.ones(1)}, tmp_path / "good.bin")
    torch.save({"w": Shell()}, tmp_path / "deep" / "evil.pth")
    (tmp_path / "broken.pt").write_bytes(b"?")
    with pytest.raises(ValidationFailed, match="store weights as safetensors") as refused:
        refuse_executable(tmp_path)
    assert "deep/evil.pth would import posix.system" in str(refused.value.found)
    assert "broken.pt would import nothing that can be read" in str(refused.value.found)
    assert "good.bin" not in str(refused.value.found)


def test_weights_alone_are_taken(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"whatever: nothing in it can execute")
    refuse_executable(tmp_path)
