"""Zero-shot classification with any CLIP is what open_clip's own recipe gives, on real photographs."""

from __future__ import annotations

import io
import math
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.classification import Scores
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Text, Vector
from modelmora.domain.models import GroupSpec, ModelSpec, Task
from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from modelmora.ports import Watch
from modelmora.usecases.admission import Admission, Limits
from modelmora.usecases.classify import Classification, Classify
from runners.inputs.tokenizer import prepare_text
from runners.open_clip import PROVIDER
from runners.preprocess import prepare_image
from tests.fakes import CatalogueTraffic
from tests.models.conftest import SMALL, small, spec

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "registry" / "bundled" / "shapes-clip"
CONFIG, WEIGHTS, PICKLE = "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
LABELS = ("astronaut", "cup of coffee", "Cat", "rocket", "retina", "galaxy", "café au lait", "coin 🪙")
TEMPLATES = ("a photo of a {}.", "{}", "a blurry picture of the {}, in black and white")


class Network:
    """The ports Describer, Embedder and Classifier over one loaded network, in this process."""

    def __init__(self, model: ModelSpec, folder: Path) -> None:
        self.loaded = PROVIDER.load(model, folder, device="cpu", threads=0)
        self.described = PROVIDER.describe(model, folder)

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        return self.described

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        rows = self.loaded.embed(task, [self._prepared(item) for item in items])
        return [Ok(Embedded(Vector(row.tobytes()))) for row in rows]

    async def classify(
        self, model: ModelSpec, items: Sequence[Image], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Scores]]:
        raise AssertionError("no classifier is asked where labels are given")

    def _prepared(self, item: Content) -> NDArray[Any]:
        image, text = self.described.image, self.described.text
        assert image is not None
        assert text is not None
        if isinstance(item, Text):
            return prepare_text(item.text, text, truncate=False)
        return prepare_image(item.data, image)


def reference(
    folder: Path, files: Sequence[bytes], labels: Sequence[str], templates: Sequence[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(pictures, labels): open_clip's logits and probabilities, its own chain from bytes and texts on."""
    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    weights = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer(name), labels, templates)
    pixels = torch.stack([transform(Pillow.open(io.BytesIO(data))) for data in files])
    with torch.inference_mode():
        logits = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ weights
        if model.logit_bias is not None:
            return logits.numpy(), torch.sigmoid(logits + model.logit_bias).numpy()
        return logits.numpy(), logits.softmax(dim=-1).numpy()


async def classified(folder: Path, files: Sequence[bytes], **asked: Any) -> Classification:
    """What the use case answers over the network in the folder."""
    model = spec(default=True)
    network = Network(model, folder)
    admission = Admission(CatalogueTraffic(Catalogue((model,), (GroupSpec(),))), limits=Limits())
    classify = Classify(admission, network, network, network)
    call = Call(request_id="r", deadline=time.monotonic() + 60.0)
    return await classify(None, [Ok(Image(data)) for data in files], call=call, **asked)


def scores_of(answer: Classification, labels: Sequence[str]) -> NDArray[np.float64]:
    """(pictures, labels), back in the order of the labels."""
    found = np.full((len(answer.outcomes), len(labels)), np.nan)
    for row, outcome in zip(found, answer.outcomes, strict=True):
        assert isinstance(outcome, Ok)
        for each in outcome.value.classes:
            assert each.label == labels[each.index]
            row[each.index] = each.score
        assert [c.score for c in outcome.value.classes] == sorted(
            (c.score for c in outcome.value.classes), reverse=True
        )
    return found


def changed(folder: Path, **numbers: float) -> Path:
    """The folder with these single weights; random networks need a scale that makes differences visible."""
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {name: torch.tensor(value) for name, value in numbers.items()}, folder / WEIGHTS)
    return folder


ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "CLIP": SMALL,
    "text tower apart": small(custom_text=True),
    "its scale not a scalar": small(nonscalar_logit_scale=True),
    "SigLIP's two numbers": small(custom_text=True, init_logit_scale=math.log(10), init_logit_bias=-10.0),
}


@pytest.mark.parametrize("templates", [(), ("{}",), TEMPLATES], ids=["default", "bare", "three"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_scores_are_those_of_open_clips_recipe(
    architecture: str, templates: tuple[str, ...], written: Callable[..., Path], files: list[bytes]
) -> None:
    folder = written(ARCHITECTURES[architecture])
    if architecture == "SigLIP's two numbers":
        changed(folder, logit_scale=math.log(117.3), logit_bias=-12.9)
    elif architecture != "its scale not a scalar":
        changed(folder, logit_scale=math.log(100))
    logits, expected = reference(folder, files, LABELS, templates or ("a photo of a {}.",))

    answer = await classified(folder, files, labels=LABELS, templates=templates, top_k=len(LABELS))

    assert logits.std(axis=1).min() > 1e-3  # the labels differ, or anything would pass
    np.testing.assert_allclose(scores_of(answer, LABELS), expected, atol=1e-5)


async def test_the_bundled_model_scores_as_open_clip_does(files: list[bytes]) -> None:
    labels = ("red circle", "blue square", "green triangle", "black star")
    pictures = [path.read_bytes() for path in sorted((ROOT / "docs" / "pictures").glob("*.jpg"))]
    _, expected = reference(BUNDLED, [*pictures, *files], labels, ("a {}",))

    answer = await classified(BUNDLED, [*pictures, *files], labels=labels, templates=("a {}",))

    np.testing.assert_allclose(scores_of(answer, labels), expected, atol=1e-5)


async def test_top_k_and_threshold_leave_the_scores_as_they_are(
    written: Callable[..., Path], files: list[bytes]
) -> None:
    folder = changed(written(), logit_scale=math.log(100))
    whole = scores_of(await classified(folder, files, labels=LABELS, top_k=8), LABELS)
    threshold = float(np.median(whole))

    answer = await classified(folder, files, labels=LABELS, top_k=3, threshold=threshold)

    for row, outcome in zip(whole, answer.outcomes, strict=True):
        assert isinstance(outcome, Ok)
        best = [index for index in np.argsort(-row, kind="stable")[:3] if row[index] >= threshold]
        assert [c.index for c in outcome.value.classes] == best
        assert [c.score for c in outcome.value.classes] == [row[index] for index in best]


# --- what the description says -----------------------------------------------------------------------------------


def numbers(folder: Path) -> tuple[str, float, float]:
    """The scoring of the model in the folder."""
    scoring = PROVIDER.describe(spec(), folder).scoring
    assert scoring is not None
    return scoring.activation, scoring.scale, scoring.bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_scale_is_read_from_the_weights_of_any_precision(dtype: torch.dtype, written: Callable[..., Path]) -> None:
    folder = written(dtype=dtype)
    stored = float(load_file(folder / WEIGHTS)["logit_scale"].double().exp())

    activation, scale, bias = numbers(folder)
    assert (activation, bias) == ("softmax", 0.0)
    assert scale == pytest.approx(stored)


def test_a_bias_makes_each_label_count_by_itself(written: Callable[..., Path]) -> None:
    folder = written(small(init_logit_bias=-10.0))

    activation, scale, bias = numbers(folder)
    assert (activation, bias) == ("sigmoid", -10.0)
    assert scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_tensors_says_the_same(legacy: bool, written: Callable[..., Path]) -> None:
    folder = changed(written(), logit_scale=4.25)
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    named = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": named}, folder / PICKLE, _use_new_zipfile_serialization=not legacy)

    activation, scale, bias = numbers(folder)
    assert (activation, bias) == ("softmax", 0.0)
    assert scale == pytest.approx(math.exp(4.25))


def test_what_is_loaded_describes_itself_likewise(written: Callable[..., Path]) -> None:
    folder = written()

    loaded = PROVIDER.load(spec(), folder, device="cpu", threads=0)

    assert loaded.description == PROVIDER.describe(spec(), folder)


def test_a_large_file_is_not_read_for_two_numbers(tmp_path: Path) -> None:
    """A sparse file of 8 GB: who read it would take a while, or all the memory."""
    folder, size = tmp_path, 8 * 2**30
    header = (
        b'{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        b'"visual.proj":{"dtype":"F32","shape":[%d],"data_offsets":[4,%d]}}' % (size // 4, size + 4)
    )
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + np.float32(2.0).tobytes())
        file.truncate(8 + len(header) + 4 + size)
    script = (
        "import sys; from pathlib import Path; import psutil; from modelmora.domain.models import ModelSpec\n"
        "from runners.open_clip import PROVIDER\n"
        "spec = ModelSpec(name='m', version='1.0.0', type='embedding', provider='open_clip', source='file:m',"
        " config={'architecture': 'ViT-B-32'})\n"
        "scoring = PROVIDER.describe(spec, Path(sys.argv[1])).scoring\n"
        "assert abs(scoring.scale - 7.38905609893065) < 1e-6, scoring\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)\n"
        "assert psutil.Process().memory_info().rss < 300 * 2**20\n"
    )

    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=ROOT, timeout=60)


def test_without_weights_or_a_scale_nothing_is_said(written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    del weights["logit_scale"]
    save_file(weights, folder / WEIGHTS)
    assert PROVIDER.describe(spec(), folder).scoring is None
    (folder / WEIGHTS).unlink()
    assert PROVIDER.describe(spec(), folder).scoring is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_a_scale_that_scores_nothing_is_refused(value: float, written: Callable[..., Path]) -> None:
    folder = changed(written(), logit_scale=value)

    with pytest.raises(ModelLoadFailed, match=r"logit_scale .* score nothing"):
        PROVIDER.describe(spec(), folder)


def test_a_scale_of_several_numbers_is_refused(written: Callable[..., Path]) -> None:
    folder = written()
    save_file(load_file(folder / WEIGHTS) | {"logit_scale": torch.zeros(2)}, folder / WEIGHTS)

    with pytest.raises(ModelLoadFailed, match=r"logit_scale has the shape \(2,\)"):
        PROVIDER.describe(spec(), folder)


@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
@pytest.mark.parametrize("content", [b"", b"\x17" * 999, b"\xff" * 8 + b"{}"])
def test_a_damaged_file_is_called_corrupt(name: str, content: bytes, written: Callable[..., Path]) -> None:
    folder = written()
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(content)

    with pytest.raises(ArtifactCorrupt, match=name):
        PROVIDER.describe(spec(), folder)


class Poison:
    """What a poisoned file would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def test_describing_runs_no_code_of_a_pickle(written: Callable[..., Path], tmp_path: Path) -> None:
    folder, mark = written(), tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(pickle.dumps({"logit_scale": Poison(mark)}, protocol=2))

    with pytest.raises(ModelLoadFailed, match="would run code"):
        PROVIDER.describe(spec(), folder)
    assert not mark.exists()
