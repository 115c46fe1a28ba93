"""SavedModels give what TensorFlow itself gives, and programs that do more than compute are not loaded."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from modelmora.domain.tensors import TensorSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, SchemaMismatch
from runners.networks.tensors import trying
from runners.payload import Parcel
from runners.tensorflow import PROVIDER
from tests.models.tensor_nets import field, tensor_spec
from tests.support import required_in_ci, wait_until

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tf() -> Any:
    if importlib.util.find_spec("tensorflow") is None:
        required_in_ci("TensorFlow is absent: it is an extra of its own")
    PROVIDER.prepare()
    import tensorflow

    tensorflow.random.set_seed(0)
    return tensorflow


def save(tf: Any, folder: Path, forward: Callable[..., Any], *inputs: Any, **signatures: Any) -> Any:
    """A module whose signature is `forward(module, *inputs)`; what it has besides as attributes."""
    module = tf.Module()
    module.weights = tf.Variable(tf.random.normal([4, 2]))
    module.forward = tf.function(lambda *given: forward(module, *given))
    own = module.forward.get_concrete_function(*inputs)
    tf.saved_model.save(module, str(folder), signatures=signatures or {"serving_default": own})
    return module


def opened(folder: Path, **config: Any) -> Any:
    return PROVIDER.load(tensor_spec("tensorflow", **config), folder, device="cpu", threads=1)


def refusal(folder: Path, **config: Any) -> str:
    with pytest.raises(ModelLoadFailed) as raised:
        PROVIDER.describe(tensor_spec("tensorflow", **config), folder)
    with pytest.raises(ModelLoadFailed):
        opened(folder, **config)
    return raised.value.detail


def parcel(**tensors: Any) -> Parcel:
    arrays = {name: np.asarray(one) for name, one in tensors.items()}
    return Parcel(tensors=arrays, rows=len(next(iter(arrays.values()))))


def elements(*ones: bytes) -> NDArray[Any]:
    array = np.empty(len(ones), dtype=object)
    array[:] = ones
    return array


def test_a_keras_network_gives_what_keras_gives(tf: Any, tmp_path: Path) -> None:
    layers = tf.keras.layers
    stack = [
        layers.Input((32, 32, 3), name="pixels"),
        layers.Conv2D(8, 3, strides=2, activation="relu"),
        layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, activation="softmax"),
    ]
    network = tf.keras.Sequential(stack)
    network.export(str(tmp_path), verbose=False)
    array = np.random.default_rng(0).standard_normal((7, 32, 32, 3), dtype=np.float32)

    model = opened(tmp_path)
    (given,) = model.predict([parcel(pixels=array)])

    (output,) = given.tensors.values()
    assert model.description.inputs == (TensorSpec(name="pixels", dtype="float32", shape=("batch", 32, 32, 3)),)
    assert np.abs(output - network(array).numpy()).max() <= TOLERANCE


def test_rows_of_several_callers_are_computed_together(tf: Any, tmp_path: Path) -> None:
    wanted = tf.TensorSpec([None, 4], tf.float32, name="x")
    module = save(tf, tmp_path, lambda module, x: {"y": x @ module.weights}, wanted)
    arrays = [np.random.default_rng(rows).standard_normal((rows, 4), dtype=np.float32) for rows in (1, 5, 2)]

    given = opened(tmp_path).predict([parcel(x=array) for array in arrays])

    assert [one.rows for one in given] == [1, 5, 2]
    for one, array in zip(given, arrays, strict=True):
        assert np.abs(one.tensors["y"] - array @ module.weights.numpy()).max() <= TOLERANCE


def test_texts_and_several_inputs_and_outputs_keep_their_names_and_dtypes(tf: Any, tmp_path: Path) -> None:
    wanted = tf.TensorSpec([None], tf.string, name="text"), tf.TensorSpec([None], tf.int64, name="times")

    def forward(module: Any, text: Any, times: Any) -> dict[str, Any]:
        return {
            "upper": tf.strings.upper(text, encoding="utf-8"),
            "length": tf.strings.length(text) * tf.cast(times, tf.int32),
        }

    save(tf, tmp_path, forward, *wanted)

    model = opened(tmp_path, inputs=[
        {"name": "text", "dtype": "bytes", "shape": ["batch"], "labels": ["a"]},
        {"name": "times", "dtype": "int64", "shape": ["batch"], "range": [0, 9]},
    ])  # fmt: skip
    (given,) = model.predict([parcel(text=elements("żó".encode(), b""), times=np.array([1, 2]))])

    assert given.tensors["upper"].tolist() == ["ŻÓ".encode(), b""]
    assert given.tensors["length"].tolist() == [4, 0]
    assert [(one.name, one.dtype) for one in model.description.outputs] == [("length", "int32"), ("upper", "bytes")]


def test_a_model_may_decode_pictures_itself(tf: Any, tmp_path: Path) -> None:
    def forward(module: Any, files: Any) -> dict[str, Any]:
        def one(file: Any) -> Any:
            return tf.reduce_mean(tf.cast(tf.io.decode_jpeg(file, channels=3), tf.float32), axis=[0, 1])

        return {"colour": tf.map_fn(one, files, fn_output_signature=tf.TensorSpec([3], tf.float32))}

    save(tf, tmp_path, forward, tf.TensorSpec([None], tf.string, name="files"))
    photograph, file = skimage.data.astronaut(), io.BytesIO()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(photograph).resize((64, 64))
    picture.save(file, "JPEG", quality=95)

    model = opened(tmp_path)
    (given,) = model.predict([parcel(files=elements(file.getvalue()))])

    decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())), np.float32).mean(axis=(0, 1))
    assert np.abs(given.tensors["colour"][0] - decoded).max() < 1.0
    with pytest.raises(SchemaMismatch, match="cannot compute this input"):
        model.predict([parcel(files=elements(b"no picture"))])


def test_another_signature_is_named(tf: Any, tmp_path: Path) -> None:
    class Two(tf.Module):  # type: ignore[misc]  # TensorFlow's classes have no types
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def double(self, x: Any) -> Any:
            return {"y": x * 2}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def halve(self, x: Any) -> Any:
            return {"y": x / 2}

    two = Two()
    tf.saved_model.save(two, str(tmp_path), signatures={"double": two.double, "halve": two.halve})
    array = np.array([4.0], np.float32)

    given = [opened(tmp_path, signature=name).predict([parcel(x=array)])[0] for name in ("double", "halve")]

    assert [one.tensors["y"].tolist() for one in given] == [[8], [2]]
    assert "no signature 'serving_default'; it has double, halve" in refusal(tmp_path)


def test_without_a_signature_it_is_told_how_to_save_one(tf: Any, tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path))

    assert "it has none: save it with signatures=" in refusal(tmp_path)


def test_a_shape_that_the_file_does_not_tell_is_declared(tf: Any, tmp_path: Path) -> None:
    save(tf, tmp_path, lambda module, x: {"y": x * 2}, tf.TensorSpec(None, tf.float32, name="x"))
    tensors = {
        key: [{"name": name, "dtype": "float32", "shape": ["batch"]}]
        for key, name in (("inputs", "x"), ("outputs", "y"))
    }

    assert "'x': its shape is not in the file" in refusal(tmp_path)
    assert opened(tmp_path, **tensors).predict([parcel(x=np.ones(2, np.float32))])[0].tensors["y"].tolist() == [2, 2]


def test_a_declared_schema_that_is_not_the_models_is_refused(tf: Any, tmp_path: Path) -> None:
    save(tf, tmp_path, lambda module, x: {"y": x * 2}, tf.TensorSpec([None, 3], tf.float32, name="x"))

    said = refusal(tmp_path, inputs=[{"name": "x", "dtype": "int32", "shape": ["batch", 4]}])

    assert "config.inputs[0].dtype: int32 is declared, the model has float32" in said
    assert "config.inputs[0].shape: [batch, 4] is declared, the model has [any, 3]" in said


DANGEROUS: dict[str, Callable[[Any, Any, str], Any]] = {
    "ReadFile": lambda tf, x, path: tf.io.read_file(path),
    "WriteFile": lambda tf, x, path: _after(tf, tf.io.write_file(path, "owned"), x),
    "MatchingFiles": lambda tf, x, path: tf.io.matching_files(path),
    "EagerPyFunc": lambda tf, x, path: tf.py_function(lambda one: one, [x], tf.float32),
    "PyFunc": lambda tf, x, path: tf.numpy_function(lambda one: one, [x], tf.float32),
    "PrintV2": lambda tf, x, path: _after(tf, tf.print(x, output_stream=f"file://{path}"), x),
    "SaveV2": lambda tf, x, path: _after(tf, tf.raw_ops.SaveV2(prefix=path, tensors=[x], **_named("x")), x),
    "RestoreV2": lambda tf, x, path: tf.raw_ops.RestoreV2(prefix=path, dtypes=[tf.float32], **_named("x"))[0],
    "MergeV2Checkpoints": lambda tf, x, path: _after(tf, _merged(tf, path), x),
    "ImmutableConst": lambda tf, x, path: tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name=path),
    "DebugIdentityV2": lambda tf, x, path: tf.raw_ops.DebugIdentityV2(input=x, debug_urls=[f"file://{path}"]),
    "TFRecordDataset": lambda tf, x, path: _summed(tf.data.TFRecordDataset(path), ""),
    "SqlDataset": lambda tf, x, path: _summed(tf.data.experimental.SqlDataset("sqlite", path, "select 1", tf.int32), 0),
}


def _named(name: str) -> dict[str, list[str]]:
    return {"tensor_names": [name], "shape_and_slices": [""]}


def _merged(tf: Any, path: str) -> Any:
    return tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[path], destination_prefix=path)


def _summed(dataset: Any, first: Any) -> Any:
    return dataset.reduce(first, lambda one, other: one + other)


def _after(tf: Any, effect: Any, value: Any) -> Any:
    with tf.control_dependencies([effect] if effect is not None else []):
        return tf.identity(value)


@pytest.mark.parametrize("operation", DANGEROUS)
@pytest.mark.parametrize("where", ["signature", "branch"])
def test_a_program_that_does_more_than_compute_is_refused_before_it_is_loaded(
    tf: Any, tmp_path: Path, operation: str, where: str
) -> None:
    path = str(tmp_path / "target")

    def forward(module: Any, x: Any) -> dict[str, Any]:
        def act() -> Any:
            return tf.strings.as_string(tf.size(DANGEROUS[operation](tf, x, path)))

        found = act() if where == "signature" else tf.cond(tf.size(x) > 10, act, lambda: tf.constant(""))
        return {"y": tf.identity(x), "found": found}

    save(tf, tmp_path / "model", forward, tf.TensorSpec([None], tf.float32, name="x"))

    assert operation in refusal(tmp_path / "model")
    assert not (tmp_path / "target").exists()


def test_a_file_that_loading_itself_would_read_is_refused(tf: Any, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    words = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(words, -1)
    wanted = tf.TensorSpec([None], tf.string, name="x")
    own = tf.function(lambda x: {"y": module.table.lookup(x)}).get_concrete_function(wanted)
    module.own = own
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": own})

    assert "InitializeTableFromTextFileV2" in refusal(tmp_path / "model")


def test_words_within_the_graph_are_served(tf: Any, tmp_path: Path) -> None:
    words = tf.lookup.KeyValueTensorInitializer(["one", "two"], [1, 2], tf.string, tf.int64)
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(words, -1)
    own = tf.function(lambda x: {"y": module.table.lookup(x)}).get_concrete_function(
        tf.TensorSpec([None], tf.string, name="x")
    )
    module.own = own
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": own})

    (given,) = opened(tmp_path).predict([parcel(x=elements(b"two", b"five"))])

    assert given.tensors["y"].tolist() == [2, -1]


def functions_of(graph: Any) -> dict[str, Any]:
    return {one.signature.name: one for one in graph.graph_def.library.function}


def served(graph: Any) -> Any:
    """The function that the signature calls."""
    return next(one for name, one in functions_of(graph).items() if "signature_wrapper" in name)


def _call(graph: Any, saver: str) -> None:
    served(graph).node_def.add(name="call", op="StatefulPartitionedCall").attr["f"].func.name = saver


def _hold(graph: Any, saver: str) -> None:
    graph.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = saver


def _name_forward(graph: Any, saver: str) -> None:
    served(graph).attr["forward_function_name"].s = saver.encode()


def _name_at_argument(graph: Any, saver: str) -> None:
    served(graph).arg_attr[0].attr["_made_by"].func.name = saver


def _offer(graph: Any, saver: str) -> None:
    """TensorFlow's optimiser puts it in the place of the other."""
    for one in (functions_of(graph)[saver], served(graph)):
        one.attr["api_implements"].s = b"the same"


def _hide_behind_a_namesake(graph: Any, saver: str) -> None:
    function = functions_of(graph)[saver]
    function.signature.name = "called"
    again = graph.graph_def.library.function.add()
    again.CopyFrom(function)
    del again.node_def[:]


CALLERS = (_call, _hold, _name_forward, _name_at_argument, _offer, _hide_behind_a_namesake)


def saved_with_variables(tf: Any, folder: Path) -> tuple[Any, str]:
    """The file of a model that is served, and its function that saves."""
    from tensorflow.core.protobuf import saved_model_pb2

    save(tf, folder, lambda module, x: {"y": x @ module.weights}, tf.TensorSpec([None, 4], tf.float32, name="x"))
    assert opened(folder)
    proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return proto, next(name for name in functions_of(proto.meta_graphs[0]) if "traced_save" in name)


@pytest.mark.parametrize("change", CALLERS)
def test_the_functions_that_save_and_restore_may_stay_but_not_be_called(
    tf: Any, tmp_path: Path, change: Callable[[Any, str], None]
) -> None:
    proto, saver = saved_with_variables(tf, tmp_path)
    change(proto.meta_graphs[0], saver)
    (tmp_path / "saved_model.pb").write_bytes(proto.SerializeToString())

    assert "MergeV2Checkpoints, SaveV2, ShardedFilename" in refusal(tmp_path)


def test_a_function_that_saves_is_found_by_its_other_name(tf: Any, tmp_path: Path) -> None:
    """Which only those see who put both halves of its signature together."""
    proto, saver = saved_with_variables(tf, tmp_path)
    graph = proto.meta_graphs[0]
    function = functions_of(graph)[saver]
    renamed = function.SerializeToString() + field(1, field(1, b"called"))
    graph.graph_def.library.function.remove(function)
    content = field(2, graph.SerializeToString() + field(2, field(2, field(1, renamed))))
    assert "called" in functions_of(type(proto).FromString(content).meta_graphs[0])
    (tmp_path / "saved_model.pb").write_bytes(content)

    assert "MergeV2Checkpoints, SaveV2, ShardedFilename" in refusal(tmp_path)


def test_rows_that_hang_together_are_never_put_together(tf: Any, tmp_path: Path) -> None:
    def forward(_: Any, x: Any) -> dict[str, Any]:
        return {"y": x / tf.reduce_sum(x, axis=0, keepdims=True)}

    save(tf, tmp_path, forward, tf.TensorSpec([None, 2], tf.float32, name="x"))
    one, other = np.array([[1, 2], [3, 2]], np.float32), np.array([[5, 5]], np.float32)

    model = opened(tmp_path)
    first, second = model.predict([parcel(x=one), parcel(x=other)])

    assert (model.description.batches, model.description.max_batch) == (False, 1)
    assert first.tensors["y"].tolist() == [[0.25, 0.5], [0.75, 0.5]]
    assert second.tensors["y"].tolist() == [[1, 1]]


def test_a_program_that_never_ends_fails_to_load_and_ends(
    tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_: Any, x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda y: tf.reduce_all(tf.math.is_finite(y)), lambda y: (-y,), [x])[0]}

    save(tf, tmp_path / "endless", forward, tf.TensorSpec([None], tf.float32, name="x"))
    save(tf, tmp_path / "good", lambda module, x: {"y": x * 2}, tf.TensorSpec([None], tf.float32, name="x"))
    monkeypatch.setattr(trying, "TRY_S", 2.0)

    with pytest.raises(ModelLoadFailed, match="it has not come back from a sample for 2 s") as raised:
        opened(tmp_path / "endless")

    assert raised.value.retry_after_s == trying.AGAIN_S
    wait_until(
        lambda: not any(one.name.startswith("sample of") for one in threading.enumerate()),
        within_s=20,
        what="its end",
    )
    monkeypatch.setattr(trying, "TRY_S", 60.0)
    assert opened(tmp_path / "good").predict([parcel(x=np.ones(1, np.float32))])[0].tensors["y"].tolist() == [2]


def test_a_model_of_tensorflow_1_is_refused(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"y": x * 2})

    assert "saved by TensorFlow 1" in refusal(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(100), os.urandom(1000)])
def test_rubbish_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)

    with pytest.raises(ArtifactCorrupt, match="damaged or no SavedModel"):
        PROVIDER.describe(tensor_spec("tensorflow"), tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_damaged_files_are_told(tf: Any, tmp_path: Path, kept: float) -> None:
    save(tf, tmp_path, lambda module, x: {"y": x @ module.weights}, tf.TensorSpec([None, 4], tf.float32, name="x"))
    (variables,) = tmp_path.glob("variables/*.data*")
    variables.write_bytes(variables.read_bytes()[: int(kept * variables.stat().st_size)])

    with pytest.raises((ArtifactCorrupt, ModelLoadFailed)) as raised:
        opened(tmp_path)

    assert str(tmp_path) not in raised.value.detail
    graph = tmp_path / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[: int(kept * graph.stat().st_size)])
    with pytest.raises(ArtifactCorrupt, match="damaged or no SavedModel"):
        opened(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    assert "needs a folder with saved_model.pb" in refusal(tmp_path)


def test_closing_lets_go_of_the_variables(tf: Any, tmp_path: Path) -> None:
    import gc
    import weakref

    save(tf, tmp_path, lambda module, x: {"y": x @ module.weights}, tf.TensorSpec([None, 4], tf.float32, name="x"))
    model = opened(tmp_path)
    model.predict([model.sample("predict")])
    root = weakref.ref(model.program.root)

    model.close()
    gc.collect()

    assert root() is None


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **env}
    return subprocess.run([sys.executable, "-c", script], env=own, capture_output=True, text=True, check=False)


SPEC = (
    "from pathlib import Path; from modelmora.domain.models import ModelSpec; from runners.tensorflow import PROVIDER\n"
    "spec = ModelSpec(name='m', version='1.0.0', type='tensor', provider='tensorflow', source='file:x')\n"
)


def test_describing_takes_no_library_and_without_it_loading_says_what_to_install(tf: Any, tmp_path: Path) -> None:
    save(tf, tmp_path, lambda module, x: {"y": x * 2}, tf.TensorSpec([None], tf.float32, name="x"))
    script = SPEC + (
        f"import sys; folder = Path({str(tmp_path)!r}); sys.modules['tensorflow'] = None\n"
        "print(PROVIDER.describe(spec, folder).inputs[0].name)\n"
        "from modelmora.errors import ModelLoadFailed\n"
        "try: PROVIDER.load(spec, folder, device='cpu', threads=1)\n"
        "except ModelLoadFailed as error: print(error.detail)"
    )

    done = run(script)

    assert done.stdout.splitlines() == [
        "x",
        "TensorFlow is not installed here: pip install 'modelmora[tensorflow]'",
    ], done.stderr


def test_a_fork_after_the_import_computes(tf: Any, tmp_path: Path) -> None:
    """As the engine is forked from the zygote, which may have no threads of the library's."""
    save(tf, tmp_path, lambda module, x: {"y": x * 2}, tf.TensorSpec([None], tf.float32, name="x"))
    script = SPEC + (
        "import os, sys, numpy, scipy.linalg\n"
        "before = len(os.listdir('/proc/self/task')); PROVIDER.prepare()\n"
        "print(len(os.listdir('/proc/self/task')) - before, flush=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        f"    model = PROVIDER.load(spec, Path({str(tmp_path)!r}), device='cpu', threads=2)\n"
        "    given = model.predict([model.sample('predict')] * 3)\n"
        "    print([one.tensors['y'].tolist() for one in given], flush=True); os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )

    done = run(script)

    assert (done.returncode, done.stdout.splitlines()) == (0, ["0", "[[0.0], [0.0], [0.0]]"]), done.stderr[-2000:]
