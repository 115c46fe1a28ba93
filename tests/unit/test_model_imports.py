"""A model that lies here is found to be what it is, whoever stored it; its provider runs what would be sent."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from load.random_weights import write_random
from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing, InvalidInput, ModelNotFound, ValidationFailed
from modelmora.imports import Import, read_import
from runners import families
from tests.e2e.test_predicting import save_model
from tests.models.conftest import SMALL
from tests.models.hub_folders import configured, processor_of, stored
from tests.support import required_in_ci


def paths(found: Import) -> list[str]:
    return [file.path for file in found.files]


def described(found: Import, folder: Path) -> Any:
    """What the provider says of the files, laid out as they would be on a server."""
    for file in found.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.at, folder / file.path)
    spec = ModelSpec(
        name="tested", version="1.0.0", type=found.type, provider=found.provider, source="file:tested",
        config=dict(found.config),
    )  # fmt: skip
    return families.provider(found.provider).describe(spec, folder)


def vit(folder: Path, **options: Any) -> Path:
    processor = processor_of("ViT", size={"height": 32, "width": 32})
    return stored(folder, configured("vit"), processor, classifier=True, **options)


def mlflow(folder: Path, flavours: dict[str, Any], **more: Any) -> Path:
    """MLflow's directory around what is in `folder`."""
    told = {"flavors": flavours, "run_id": "0a1b", "mlflow_version": "3.1.0", "model_uuid": "u", **more}
    (folder / "MLmodel").write_text(yaml.safe_dump(told), encoding="utf-8")
    (folder / "requirements.txt").write_text("mlflow\n", encoding="utf-8")
    return folder


def tensor(name: str, shape: list[int], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


def test_open_clip_folder(tmp_path: Path) -> None:
    found = read_import(write_random(SMALL, tmp_path / "clip"))
    assert (found.provider, found.type, found.why) == ("open_clip", "embedding", "open_clip_config.json")
    assert paths(found) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert found.bytes == sum(file.at.stat().st_size for file in found.files)
    assert described(found, tmp_path / "there").text is not None


def test_transformers_folder_with_safetensors_or_weights_alone_in_a_pickle(tmp_path: Path) -> None:
    for pickled, weights in ((False, "model.safetensors"), (True, "pytorch_model.bin")):
        found = read_import(vit(tmp_path / weights, pickled=pickled))
        assert (found.provider, found.type) == ("classifier", "classification")
        assert weights in paths(found)
        assert "cat" in described(found, tmp_path / f"there-{weights}").labels


def test_onnx_as_a_folder_or_a_file(tmp_path: Path) -> None:
    save_model(tmp_path / "iris")
    for place in (tmp_path / "iris", tmp_path / "iris" / "model.onnx", str(tmp_path / "iris")):
        found = read_import(place)
        assert (found.provider, found.type, paths(found)) == ("onnx", "tensor", ["model.onnx"])
    assert [one.name for one in described(found, tmp_path / "there").inputs] == ["features"]


SAVE = """
import sys, tensorflow as tf

module = tf.Module()
module.weights = tf.Variable(tf.random.normal([4, 2]))
module.forward = tf.function(lambda rows: {"scores": rows @ module.weights})
own = module.forward.get_concrete_function(tf.TensorSpec([None, 4], tf.float32, name="rows"))
tf.saved_model.save(module, sys.argv[1], signatures={"serving_default": own})
"""


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by TensorFlow in a process of its own: what imports a model has none in it."""
    if importlib.util.find_spec("tensorflow") is None:
        required_in_ci("TensorFlow is absent: it is an extra of its own")
    folder = tmp_path_factory.mktemp("tf") / "saved"
    subprocess.run([sys.executable, "-c", SAVE, str(folder)], check=True, capture_output=True)
    return folder


def test_saved_model(saved_model: Path, tmp_path: Path) -> None:
    found = read_import(saved_model)
    assert (found.provider, found.type) == ("tensorflow", "tensor")
    assert "variables/variables.index" in paths(found)
    assert [one.name for one in described(found, tmp_path / "there").outputs] == ["scores"]


def test_mlflow_onnx_with_the_schema_of_its_signature(tmp_path: Path) -> None:
    save_model(tmp_path / "iris")
    signature = {
        "inputs": json.dumps([tensor("features", [-1, 4])]),
        "outputs": json.dumps([tensor("scores", [-1, 3])]),
        "params": None,
    }
    folder = mlflow(tmp_path / "iris", {"onnx": {"data": "model.onnx"}, "python_function": {}}, signature=signature)
    found = read_import(folder)
    assert (found.provider, found.why) == ("onnx", "MLmodel: onnx, model.onnx")
    assert found.config == {
        "inputs": [{"name": "features", "dtype": "float32", "shape": ["batch", 4]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 3]}],
    }
    assert found.training == {
        "parameters": {"mlflow": {"run_id": "0a1b", "mlflow_version": "3.1.0", "model_uuid": "u"}}
    }
    assert described(found, tmp_path / "there").inputs[0].shape == ("batch", 4)


@pytest.mark.parametrize(
    "inputs",
    [
        "not json",
        json.dumps([{"type": "double", "name": "age"}]),
        json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]),
        json.dumps([tensor("features", [-1, 4], "float64")]),
        json.dumps([tensor("features", [-1, 4], "object")]),
        json.dumps({"no": "list"}),
        "[" * 100_000,
        None,
        7,
    ],
)
def test_a_signature_without_the_models_own_tensors_is_left_to_the_graph(inputs: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "iris")
    signature = {"inputs": inputs, "outputs": json.dumps([tensor("scores", [-1, 3])])}
    found = read_import(mlflow(tmp_path / "iris", {"onnx": {"data": "model.onnx"}}, signature=signature))
    assert found.config == {}


def test_mlflow_transformers_with_what_prepares_its_pictures_beside_it(tmp_path: Path) -> None:
    vit(tmp_path / "ml" / "model")
    processor = tmp_path / "ml" / "components" / "image_processor" / "preprocessor_config.json"
    processor.parent.mkdir(parents=True)
    shutil.move(tmp_path / "ml" / "model" / "preprocessor_config.json", processor)
    flavour = {"model_binary": "model", "task": "image-classification"}
    found = read_import(mlflow(tmp_path / "ml", {"transformers": flavour}))
    assert (found.provider, paths(found)) == (
        "classifier", ["config.json", "model.safetensors", "preprocessor_config.json"]
    )  # fmt: skip
    assert described(found, tmp_path / "there").image is not None


@pytest.mark.parametrize("linked", ["components", "components/image_processor/preprocessor_config.json"])
def test_mlflow_links_that_lead_out_are_refused(linked: str, tmp_path: Path) -> None:
    vit(tmp_path / "ml" / "model")
    prepared = tmp_path / "ml" / "model" / "preprocessor_config.json"
    elsewhere = tmp_path / "mine" / "image_processor" / "preprocessor_config.json"
    elsewhere.parent.mkdir(parents=True)
    shutil.move(prepared, elsewhere)
    link = tmp_path / "ml" / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "mine" if linked == "components" else elsewhere)
    folder = mlflow(tmp_path / "ml", {"transformers": {"model_binary": "model", "task": "image-classification"}})
    assert "a link that leaves the folder" in refusal(folder)


@pytest.mark.parametrize("flavour", [{"saved_model_dir": "tf2model"}, {"data": "data", "save_format": "tf"}])
def test_mlflow_tensorflow_modules_and_keras(flavour: dict[str, str], saved_model: Path, tmp_path: Path) -> None:
    shutil.copytree(saved_model, tmp_path / ("data/model" if "data" in flavour else "tf2model"))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "keras_module.txt").write_text("keras")
    found = read_import(mlflow(tmp_path, {"tensorflow": flavour}))
    assert found.provider == "tensorflow"
    assert "saved_model.pb" in paths(found)
    assert not [path for path in paths(found) if path.startswith(("data", "tf2model"))]


@pytest.mark.parametrize(
    ("flavours", "said"),
    [
        ({"pytorch": {"model_data": "data"}, "python_function": {}}, "flavour pytorch is pickled Python code"),
        ({"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}, "flavour sklearn is pickled Python code"),
        ({"transformers": {"source_model_name": "google/vit"}}, "names its weights on a hub"),
        ({"xgboost": {"data": "model.xgb"}}, "no flavour of this MLflow model is served"),
    ],
)
def test_mlflow_flavours_that_are_not_run_are_refused_by_name(
    flavours: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.pth").write_bytes(pickle.dumps(os.system))
    with pytest.raises(ValidationFailed, match=said) as refused:
        read_import(mlflow(tmp_path, flavours))
    assert refused.value.found == ", ".join(sorted(flavours))


def test_what_is_said_stands_over_what_the_files_tell(tmp_path: Path) -> None:
    (tmp_path / "weights.bin2").write_bytes(b"?")
    found = read_import(tmp_path, provider="sam")
    assert (found.provider, found.type) == ("sam", "segmentation")
    assert read_import(tmp_path, provider="onnx", type_="embedding").type == "embedding"
    with pytest.raises(ValidationFailed, match="of which type the models of ours"):
        read_import(tmp_path, provider="ours")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A BentoML model store of our own."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    home = tmp_path / "bentoml"
    (home / "models").mkdir(parents=True)
    BentoMLContainer.bentoml_home.set(str(home))
    yield home
    BentoMLContainer.bentoml_home.reset()


@pytest.mark.usefixtures("store")
def test_a_model_of_bentomls_store(tmp_path: Path) -> None:
    import bentoml

    save_model(tmp_path / "iris")
    for version in ("one", "two"):
        with bentoml.models.create(f"iris:{version}") as model:
            shutil.copy(tmp_path / "iris" / "model.onnx", model.path_of("saved_model.onnx"))
    found = read_import("bentoml:iris:one")
    assert (found.provider, paths(found)) == ("onnx", ["saved_model.onnx"])
    assert found.training["parameters"]["bentoml"]["tag"] == "iris:one"
    assert read_import("bentoml:iris").training["parameters"]["bentoml"]["tag"] == "iris:two"
    assert [one.name for one in described(found, tmp_path / "there").inputs] == ["features"]


@pytest.mark.usefixtures("store")
def test_a_model_that_bentoml_pickled_is_refused_with_what_it_would_do() -> None:
    import bentoml

    with bentoml.models.create("net:one") as model:
        torch.save(torch.nn.Linear(2, 2), model.path_of("saved_model.pt"))
    with pytest.raises(ValidationFailed, match="would execute code") as refused:
        read_import("bentoml:net:one", provider="sam")
    assert "saved_model.pt would import torch.nn.modules.linear.Linear" in str(refused.value.found)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("tag", "error"), [("absent:one", ModelNotFound), ("A B", InvalidInput), ("", InvalidInput)])
def test_a_tag_that_is_not_in_the_store_is_told(tag: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_import(f"bentoml:{tag}")


def test_a_client_without_bentoml_or_pyyaml_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bentoml", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CapabilityMissing, match="pip install bentoml"):
        read_import("bentoml:iris:one")
    (tmp_path / "MLmodel").touch()
    with pytest.raises(CapabilityMissing, match="pip install pyyaml"):
        read_import(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path) -> str:
    with pytest.raises(ValidationFailed) as refused:
        read_import(folder)
    return refused.value.detail


def test_what_no_model_is_made_of_is_left_out_and_told(folder: Path) -> None:
    for name in (".git/objects/ab", ".cache/huggingface/x", "sub/__pycache__/x.pyc", "sub/.DS_Store", "sub/kept"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = read_import(folder)
    assert paths(found) == ["model.onnx", "sub/kept"]
    assert found.left_out == (".cache", ".git", "sub/.DS_Store", "sub/__pycache__")


def test_links_that_stay_are_followed_and_those_that_leave_are_not(folder: Path) -> None:
    (folder / "weights.data").symlink_to("model.onnx")
    assert paths(read_import(folder)) == ["model.onnx", "weights.data"]
    (folder.parent / "secret").write_bytes(b"mine")
    (folder / "stolen").symlink_to("../secret")
    assert refusal(folder) == "stolen cannot be registered: a link that leaves the folder, to ../secret"
    (folder / "stolen").unlink()
    (folder / "around").symlink_to(".")
    assert refusal(folder) == "around cannot be registered: a link to a folder"


def test_a_link_to_nothing_cannot_be_read(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(InvalidInput, match="gone: No such file"):
        read_import(folder)


def test_the_links_of_a_hubs_cache_are_files(tmp_path: Path) -> None:
    """As huggingface_hub lays them out."""
    repository = tmp_path / "models--somebody--vit"
    snapshot = vit(repository / "snapshots" / "abc123")
    (repository / "blobs").mkdir()
    for file in [*snapshot.iterdir()]:
        shutil.move(file, repository / "blobs" / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    found = read_import(snapshot)
    assert found.provider == "classifier"
    assert found.bytes > 10_000
    (snapshot / "config2.json").symlink_to("/etc/hostname")
    assert "a link that leaves the folder" in refusal(snapshot)


def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert refusal(folder) == "pipe cannot be registered: neither a file nor a folder"
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "s"))
        assert "neither a file nor a folder" in refusal(folder)


def test_a_pointer_of_git_lfs_is_no_file_of_weights(folder: Path) -> None:
    (folder / "weights.data").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 605143316\n"
    )
    with pytest.raises(ValidationFailed, match="a pointer of Git LFS") as refused:
        read_import(folder)
    assert refused.value.expected == "the file: run `git lfs pull`"


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "x" * 250 + "\udcff", ".manifest"])
def test_a_name_that_no_artifact_takes_is_refused(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"x")
    assert "leaves the artifact or is none" in refusal(folder)


def test_what_is_not_there_or_not_readable_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absent: No such file"):
        read_import(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="null byte"):
        read_import("a\0b/c.onnx")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValidationFailed, match="only if it is an ONNX graph"):
        read_import(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValidationFailed, match="no files to register"):
        read_import(tmp_path / "empty", provider="sam")


def test_a_whole_disk_is_not_taken_for_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmora.imports.files.MOST_FILES", 3)
    for number in range(4):
        (folder / f"{number}.data").touch()
    assert "holds more files than a model" in refusal(folder)


def test_meta_s_own_checkpoint_is_a_sam(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "sam_vit_b_01ec64.pth")
    assert read_import(tmp_path).provider == "sam"
