"""The provider of SAM against segment_anything itself, on real photographs."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from modelmora.domain.outcome import Ok
from modelmora.domain.segmentation import Box, Everything, Mask, MaskOptions, Point, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners.inputs import everything
from runners.inputs.prompts import Picture, asking, asking_for_everything, is_unknown, masks_of
from runners.networks.sam.forward import Sam
from runners.payload import Parcel
from runners.preprocess import prepare_sized
from runners.sam import PROVIDER
from tests.models import sams

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
EDGE = 1e-2
"""Pixels whose logits are nearer to the threshold than this may fall on either side of it."""


def point(x: float, y: float, *, background: bool = False) -> Point:
    return Point(x=x, y=y, background=background)


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


def of_every_kind(height: int, width: int, side: int = 256) -> list[Prompt]:
    """Points, boxes, earlier masks and what goes together, none like another but three that are alike."""
    drawn = np.random.default_rng(0).normal(size=(side, side)).astype("<f4") * 4
    mask = Tensor(dtype="float32", shape=(side, side), data=drawn.tobytes())
    middle, corner = point(width / 2, height / 2), point(width * 0.1, height * 0.9, background=True)
    half = box(width * 0.2, height * 0.25, width * 0.7, height * 0.8)
    return [
        Prompt(points=(middle,)),
        Prompt(points=(point(0, 0),)),
        Prompt(points=(point(width, height),)),
        Prompt(points=(middle, corner)),
        Prompt(box=half),
        Prompt(points=(corner, middle), box=half),
        Prompt(points=(middle,), mask=mask),
        Prompt(box=half, mask=mask),
    ]


def file_of(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(loaded: Sam, pixels: NDArray[np.uint8], digest: bytes = b"d" * 32, *, known: bool = False) -> Picture:
    """As the API makes it of the picture's file."""
    how = loaded.description.image
    assert how is not None
    scaled, size = prepare_sized(file_of(pixels), how)
    return Picture(digest=digest, size=size, pixels=None if known else scaled)


def answered(loaded: Sam, *asked: Parcel, threads: int = 0) -> list[Parcel]:
    outcomes = loaded.segment(asked, threads=threads)
    return [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]


def by_prompt(answer: Parcel, count: int) -> list[list[Mask]]:
    found: list[list[Mask]] = [[] for _ in range(count)]
    for prompt, mask in masks_of(answer):
        found[prompt].append(mask)
    return found


def pixels_of(mask: Mask, size: Sequence[int]) -> NDArray[np.bool_]:
    decoded: NDArray[np.uint8] = coco.decode({"size": list(size), "counts": mask.counts})
    return decoded.astype(bool)


def assert_equal(found: Sequence[Mask], expected: Any, size: Sequence[int]) -> None:
    """Logits to 1e-3, every pixel that is not on the edge, areas and boxes of what is set."""
    full, scores, small = expected
    assert len(found) == len(scores)
    for mask, logits, score, low in zip(found, full, scores, small, strict=True):
        assert mask.score == pytest.approx(float(score), abs=1e-5)
        if mask.logits is not None:
            own = np.frombuffer(mask.logits.data, "<f4").reshape(mask.logits.shape)
            assert float(np.abs(own - low).max()) <= 1e-3
        pixels = pixels_of(mask, size)
        sure = np.abs(logits) > EDGE
        assert np.array_equal(pixels[sure], logits[sure] > 0)
        assert mask.area == pixels.sum()
        rows, columns = np.nonzero(pixels)
        assert mask.box == box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.fixture(scope="module")
def network() -> Any:
    return sams.build()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    return sams.checkpoint(tmp_path_factory.mktemp("sam"), network)


@pytest.fixture
def loaded(folder: Path) -> Iterator[Sam]:
    model = load(folder)
    yield model
    model.close()


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A network of 256 pixels a side, for what does not depend on the size."""
    network = sams.build(256)
    return network, sams.hub_like(tmp_path_factory.mktemp("little"), network)


@pytest.fixture
def small(little: tuple[Any, Path]) -> Iterator[Sam]:
    model = load(little[1])
    yield model
    model.close()


def load(folder: Path, **changes: Any) -> Sam:
    model = PROVIDER.load(sams.spec(**changes), folder, device="cpu", threads=2)
    assert isinstance(model, Sam)
    return model


@pytest.mark.parametrize("name", PHOTOGRAPHS[:2])
def test_masks_of_every_kind_of_prompt_equal_the_librarys(loaded: Sam, network: Any, name: str) -> None:
    photograph = sams.photograph(name)
    prompts = of_every_kind(*photograph.shape[:2])
    options = MaskOptions(logits=True)

    [answer] = answered(loaded, asking(picture(loaded, photograph), prompts, options))

    expected = sams.reference(network, photograph, prompts)
    for found, right in zip(by_prompt(answer, len(prompts)), expected, strict=True):
        assert_equal(found, right, photograph.shape[:2])


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_so_do_those_of_a_smaller_network(small: Sam, little: tuple[Any, Path], name: str) -> None:
    photograph = sams.photograph(name)
    prompts = of_every_kind(photograph.shape[0], photograph.shape[1], side=64)

    [answer] = answered(small, asking(picture(small, photograph), prompts, MaskOptions(logits=True)))

    expected = sams.reference(little[0], photograph, prompts)
    for found, right in zip(by_prompt(answer, len(prompts)), expected, strict=True):
        assert_equal(found, right, photograph.shape[:2])


@pytest.mark.parametrize("shape", [(97, 401, 3), (300, 200, 3), (61, 47, 3), (1, 1, 3), (3, 900, 3)])
def test_masks_of_pictures_of_any_shape_equal_the_librarys(
    small: Sam, little: tuple[Any, Path], shape: tuple[int, int, int]
) -> None:
    photograph = np.array(Image.fromarray(sams.photograph("coffee")).resize((shape[1], shape[0])))
    prompts = [Prompt(points=(point(shape[1] / 2, shape[0] / 2),)), Prompt(box=box(0, 0, shape[1], shape[0]))]

    [answer] = answered(small, asking(picture(small, photograph), prompts, MaskOptions()))

    if min(shape[:2]) * 256 / max(shape[:2]) < 0.5:
        return  # the library itself cannot scale it: a side would vanish
    expected = sams.reference(little[0], photograph, prompts)
    for found, right in zip(by_prompt(answer, len(prompts)), expected, strict=True):
        assert_equal([m for m in found if m.area], _set(right), shape[:2])


def _set(expected: Any) -> Any:
    keep = [bool((logits > 0).any()) for logits in expected[0]]
    return tuple(values[keep] for values in expected)


def test_a_picture_of_24_million_pixels_is_cut_out_at_its_own_size(small: Sam, little: tuple[Any, Path]) -> None:
    photograph = np.array(Image.fromarray(sams.photograph("rocket")).resize((6000, 4000)))
    prompts = [Prompt(box=box(1000, 500, 5000, 3500))]

    [answer] = answered(small, asking(picture(small, photograph), prompts, MaskOptions()))

    assert_equal(by_prompt(answer, 1)[0], sams.reference(little[0], photograph, prompts)[0], (4000, 6000))


@pytest.mark.parametrize("multimask", [False, True])
def test_as_many_masks_as_were_asked_for(small: Sam, little: tuple[Any, Path], multimask: bool) -> None:
    photograph, options = sams.photograph("chelsea"), MaskOptions(multimask=multimask)
    prompts = [Prompt(points=(point(200, 100),)), Prompt(box=box(10, 10, 300, 200))]

    [answer] = answered(small, asking(picture(small, photograph), prompts, options))

    assert [len(found) for found in by_prompt(answer, 2)] == [3 if multimask else 1] * 2
    for found, right in zip(by_prompt(answer, 2), sams.reference(little[0], photograph, prompts, options), strict=True):
        assert_equal(found, right, photograph.shape[:2])


def test_an_earlier_answers_logits_are_taken_as_a_prompt(small: Sam, little: tuple[Any, Path]) -> None:
    photograph = sams.photograph("astronaut")
    first = Prompt(points=(point(250, 120),))
    [answer] = answered(small, asking(picture(small, photograph), [first], MaskOptions(logits=True)))
    best = max(by_prompt(answer, 1)[0], key=lambda mask: mask.score)
    again = Prompt(points=first.points, mask=best.logits)

    [answer] = answered(small, asking(picture(small, photograph), [again], MaskOptions()))

    assert_equal(by_prompt(answer, 1)[0], sams.reference(little[0], photograph, [again])[0], photograph.shape[:2])


def test_many_prompts_are_what_each_is_alone(small: Sam) -> None:
    photograph = sams.photograph("coffee")
    prompts = [Prompt(points=(point(20 * i, 15 * i),)) for i in range(1, 20)]
    together = picture(small, photograph)

    [answer] = answered(small, asking(together, prompts, MaskOptions(logits=True)))

    for prompt, found in zip(prompts, by_prompt(answer, len(prompts)), strict=True):
        [alone] = answered(small, asking(together, [prompt], MaskOptions(logits=True)))
        for one, other in zip(found, by_prompt(alone, 1)[0], strict=True):
            assert one.logits is not None
            assert other.logits is not None
            difference = np.frombuffer(one.logits.data, "<f4") - np.frombuffer(other.logits.data, "<f4")
            assert float(np.abs(difference).max()) <= 1e-4


def generated(
    network: Any, photograph: NDArray[np.uint8], asked: Everything, *, overlap: float
) -> list[dict[str, Any]]:
    """What the library's own generator gives, the best first."""
    generator = SamAutomaticMaskGenerator(
        network,
        points_per_side=asked.points_per_side,
        points_per_batch=8,
        pred_iou_thresh=asked.min_score,
        stability_score_thresh=asked.min_stability,
        box_nms_thresh=overlap,
        output_mode="coco_rle",
    )
    records: list[dict[str, Any]] = generator.generate(photograph)
    return sorted(records, key=lambda record: -record["predicted_iou"])


def assert_generated(masks: Sequence[Mask], expected: Sequence[dict[str, Any]]) -> None:
    assert len(masks) == len(expected)
    for mask, record in zip(masks, expected, strict=True):
        assert mask.score == pytest.approx(record["predicted_iou"], abs=1e-5)
        assert mask.stability == pytest.approx(record["stability_score"], abs=1e-3)
        assert mask.area == pytest.approx(record["area"], abs=5)
        left, top, across, down = record["bbox"]
        corners = (mask.box.left, mask.box.top, mask.box.right, mask.box.bottom)
        assert corners == pytest.approx((left, top, left + across + 1, top + down + 1), abs=1)


def test_everything_equals_the_librarys_generator(small: Sam, little: tuple[Any, Path]) -> None:
    photograph = sams.photograph("coffee")
    height, width = photograph.shape[:2]
    every = masks_of(_everything(small, photograph, Everything(points_per_side=8, min_score=0, min_stability=0)))
    scores = [mask.score for _, mask in every]
    asked = Everything(points_per_side=8, min_score=float(np.median(scores)), min_stability=0.1)

    masks = [mask for _, mask in masks_of(_everything(small, photograph, asked))]
    chosen = sams.chosen(masks, min_area=0, height=height, width=width)

    assert 3 < len(masks) < len(scores)
    masks.sort(key=lambda mask: -mask.score)
    assert_generated(masks, generated(little[0], photograph, asked, overlap=1.0))
    assert_generated(chosen, generated(little[0], photograph, asked, overlap=everything.OVERLAP))


def _everything(loaded: Sam, photograph: NDArray[np.uint8], asked: Everything) -> Parcel:
    """All points of the grid at once."""
    height, width = photograph.shape[:2]
    grid = everything.grid(asked.points_per_side, height=height, width=width)
    [answer] = answered(loaded, asking_for_everything(picture(loaded, photograph), grid, asked))
    return answer


def test_everything_may_be_nothing(small: Sam) -> None:
    asked = Everything(points_per_side=4, min_score=1.0, min_stability=1.0)

    answer = _everything(small, sams.photograph("coffee"), asked)

    assert masks_of(answer) == []


def test_a_folder_of_transformers_answers_as_transformers_does(tmp_path: Path) -> None:
    theirs = sams.hub_folder(tmp_path / "hub", seed=3)
    photograph, ours = sams.photograph("astronaut"), load(tmp_path / "hub")
    shown = picture(ours, photograph)

    [answer] = answered(ours, asking(shown, [Prompt(points=(point(200, 150),))], MaskOptions(logits=True)))

    pixels = ours._network.preprocess(torch.from_numpy(np.array(shown.pixels)).permute(2, 0, 1)[None])
    scaled = torch.tensor([[[[200.0 * 2, 150.0 * 2]]]])  # 512 pixels become 1024
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels, input_points=scaled)
    for found, logits, score in zip(
        by_prompt(answer, 1)[0], expected.pred_masks[0, 0], expected.iou_scores[0, 0], strict=True
    ):
        assert found.logits is not None
        own = np.frombuffer(found.logits.data, "<f4").reshape(found.logits.shape)
        # Their layer norms add 1e-6 where the original adds 1e-5.
        assert float(np.abs(own - logits.numpy()).max()) <= 2e-2 * float(logits.std())
        assert found.score == pytest.approx(float(score), abs=1e-3)


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_come_from_either_kind_of_file(tmp_path: Path, pickled: bool) -> None:
    network = sams.build(256)
    folder = sams.hub_like(tmp_path, network, pickled=pickled)

    model = load(folder)

    [answer] = answered(model, asking(picture(model, sams.photograph("chelsea")), [PROMPT], MaskOptions()))
    expected = sams.reference(network, sams.photograph("chelsea"), [PROMPT])
    assert_equal(by_prompt(answer, 1)[0], expected[0], sams.photograph("chelsea").shape[:2])


PROMPT = Prompt(points=(point(120, 90),))


def runs(loaded: Sam) -> list[int]:
    """Counts the encoder's runs from now on."""
    counted = [0]

    def count(*_: object) -> None:
        counted[0] += 1

    loaded._network.image_encoder.register_forward_hook(count)
    return counted


def test_a_picture_is_encoded_once_for_all_prompts_and_requests(small: Sam) -> None:
    encoded, photograph = runs(small), sams.photograph("rocket")
    asked = asking(picture(small, photograph), [PROMPT] * 10, MaskOptions(logits=True))

    [first] = answered(small, asked)
    [again] = answered(small, asking(picture(small, photograph, known=True), [PROMPT] * 10, MaskOptions(logits=True)))
    [with_pixels] = answered(small, asked)

    assert encoded == [1]
    for name, column in first.tensors.items():
        assert np.array_equal(column, again.tensors[name])
        assert np.array_equal(column, with_pixels.tensors[name])


def test_a_picture_that_is_not_known_is_asked_for(small: Sam) -> None:
    [answer] = answered(small, asking(picture(small, sams.photograph("rocket"), known=True), [PROMPT], MaskOptions()))

    assert is_unknown(answer)


def test_threads_that_want_the_same_new_picture_encode_it_once(small: Sam) -> None:
    encoded, answers = runs(small), list[Parcel]()
    asked = asking(picture(small, sams.photograph("rocket")), [PROMPT], MaskOptions(logits=True))
    barrier = threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        answers.extend(answered(small, asked, threads=1))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert encoded == [1]
    assert len(answers) == 6
    assert all(np.array_equal(one.tensors["counts"], answers[0].tensors["counts"]) for one in answers)


def test_the_cache_is_bounded_in_bytes_and_forgets_the_least_recently_used(little: tuple[Any, Path]) -> None:
    one = 256 * 16 * 16 * 4
    model = load(little[1], config={"cache": 2 * one})
    photographs = [sams.photograph(name) for name in PHOTOGRAPHS[:3]]
    encoded = runs(model)

    for number, photograph in enumerate(photographs):
        answered(model, asking(picture(model, photograph, bytes([number]) * 32), [PROMPT], MaskOptions()))
        assert model.pictures.held_bytes <= 2 * one
    asked = [
        asking(picture(model, photograph, bytes([number]) * 32, known=True), [PROMPT], MaskOptions())
        for number, photograph in enumerate(photographs)
    ]
    unknown = [is_unknown(answer) for answer in answered(model, *asked)]

    assert encoded == [3]
    assert unknown == [True, False, False]


def test_without_a_cache_every_request_encodes(little: tuple[Any, Path]) -> None:
    model = load(little[1], config={"cache": 0})
    encoded, asked = runs(model), asking(picture(model, sams.photograph("rocket")), [PROMPT], MaskOptions())

    answered(model, asked)
    answered(model, asked)

    assert encoded == [2]
    assert model.pictures.held_bytes == 0


def test_a_batch_about_one_picture_encodes_it_once_also_where_it_is_not_kept(little: tuple[Any, Path]) -> None:
    model = load(little[1], config={"cache": 0})
    encoded = runs(model)
    asked, other = (
        asking(picture(model, sams.photograph(name), name.encode()), [PROMPT], MaskOptions())
        for name in ("rocket", "coins")
    )
    together = answered(model, asked, asked, asked)
    assert encoded == [1]
    assert len({b"".join(one.tensors["counts"]) for one in together}) == 1
    answered(model, asked, other, asked)
    assert encoded == [3]


def test_a_warm_up_leaves_nothing_in_the_cache(small: Sam) -> None:
    encoded = runs(small)

    [answer] = answered(small, small.sample("segment"))
    answered(small, small.sample("segment"))

    assert encoded == [2]
    assert len(masks_of(answer)) == 24
    assert small.pictures.held_bytes == 0


def test_a_prompt_whose_masks_are_not_finite_does_not_harm_its_neighbours(small: Sam) -> None:
    photograph = sams.photograph("rocket")
    far = Tensor(dtype="float32", shape=(64, 64), data=np.full((64, 64), 3e38, "<f4").tobytes())
    fine = Tensor(dtype="float32", shape=(64, 64), data=np.zeros((64, 64), "<f4").tobytes())
    prompts = [Prompt(points=PROMPT.points, mask=mask) for mask in (fine, far, fine)]

    [answer] = answered(small, asking(picture(small, photograph), prompts, MaskOptions()))

    assert [len(found) for found in by_prompt(answer, 3)] == [1, 0, 1]


def test_the_footprint_counts_the_cache(small: Sam, little: tuple[Any, Path]) -> None:
    weights = sum(p.numel() * 4 for p in little[0].parameters())

    assert weights + 64 * 2**20 <= small.weight_bytes <= 1.02 * weights + 64 * 2**20


def test_a_closed_model_lets_go_of_its_weights_and_pictures(little: tuple[Any, Path]) -> None:
    model = load(little[1])
    answered(model, asking(picture(model, sams.photograph("rocket")), [PROMPT], MaskOptions()))
    network = weakref.ref(model._network)

    model.close()
    gc.collect()

    assert network() is None
    assert model.pictures.held_bytes == 0


def test_progress_is_told_by_layers_while_encoding(small: Sam) -> None:
    told: list[tuple[int, int]] = []
    asked = asking(picture(small, sams.photograph("rocket")), [PROMPT], MaskOptions())

    small.segment([asked], tell=lambda done, total: told.append((done, total)))
    small.segment([asked], tell=lambda done, total: told.append((done, total)))

    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == list(range(1, len(told) + 1))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "sam2"}, "model_type"),
        ({"model_type": "sam", "vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act"),
        ({"model_type": "sam", "vision_config": {"image_size": 1000}}, "vision_config.image_size"),
        ({"model_type": "sam", "vision_config": {"image_size": "big"}}, "vision_config.image_size"),
        ({"model_type": "sam", "vision_config": []}, None),
        ({"model_type": "sam", "vision_config": [1]}, "vision_config"),
        ({"model_type": "sam", "mask_decoder_config": {"num_multimask_outputs": 4}}, "mask_decoder_config"),
    ],
)
def test_a_configuration_of_another_network_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], named: str | None
) -> None:
    (tmp_path / "config.json").write_text(sams.json_of(config))

    if named is None:
        assert PROVIDER.describe(sams.spec(), tmp_path).image is not None
        return
    with pytest.raises(ModelLoadFailed, match=named):
        PROVIDER.describe(sams.spec(), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_configuration_that_is_none_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(ModelLoadFailed, match=r"config\.json"):
        PROVIDER.describe(sams.spec(), tmp_path)


@pytest.mark.parametrize("value", ["much", -1, None, "64 apples", [1]])
def test_a_cache_that_is_no_size_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ModelLoadFailed, match=r"config\.cache") as caught:
        PROVIDER.describe(sams.spec(config={"cache": value}), tmp_path)
    assert caught.value.field == "config.cache"


def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="did you mean 'cache'"):
        PROVIDER.describe(sams.spec(config={"cach": 1}), tmp_path)


def test_a_folder_without_weights_says_what_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"model\.safetensors, pytorch_model\.bin or one file \*\.pth"):
        load(tmp_path)


def test_two_checkpoints_are_one_too_many(tmp_path: Path, little: tuple[Any, Path]) -> None:
    sams.checkpoint(tmp_path, little[0], "a.pth")
    sams.checkpoint(tmp_path, little[0], "b.pth")

    with pytest.raises(ModelLoadFailed, match="2 files"):
        load(tmp_path)


def test_damaged_weights_are_corrupt(tmp_path: Path, folder: Path) -> None:
    whole = (folder / "sam_vit_b_01ec64.pth").read_bytes()
    (tmp_path / "sam.pth").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ArtifactCorrupt, match=r"sam\.pth is damaged"):
        load(tmp_path)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")

    with pytest.raises(ModelLoadFailed, match="not those of a segment-anything network"):
        load(tmp_path)


def test_a_checkpoint_that_lacks_a_layer_is_refused_by_name(tmp_path: Path, network: Any) -> None:
    state = network.state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "sam.pth")

    with pytest.raises(ModelLoadFailed, match=r"mask_decoder\.iou_token\.weight is missing"):
        load(tmp_path)


def test_weights_of_another_size_than_configured_are_refused(tmp_path: Path, little: tuple[Any, Path]) -> None:
    sams.checkpoint(tmp_path, little[0])

    with pytest.raises(ModelLoadFailed, match="256 pixels, the configuration says 1024"):
        load(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("precision", "bf16"), ("engine", "onnxruntime")])
def test_what_it_cannot_be_run_in_is_refused(little: tuple[Any, Path], field: str, value: str) -> None:
    with pytest.raises(ModelLoadFailed, match=value) as caught:
        load(little[1], **{field: value})
    assert caught.value.field == field


def test_the_encoders_attention_equals_the_librarys(network: Any, loaded: Sam) -> None:
    pixels = torch.from_numpy(sams.photograph("astronaut").copy()).permute(2, 0, 1)[None]
    pixels = torch.nn.functional.interpolate(pixels.float(), (1024, 1024))

    with torch.inference_mode():
        ours = loaded._network.image_encoder(loaded._network.preprocess(pixels))
        theirs = network.image_encoder(network.preprocess(pixels))

    assert float((ours - theirs).abs().max()) <= 1e-4


def test_the_predictor_of_the_library_is_what_is_compared_with(network: Any) -> None:
    """A reference that gave constants would prove nothing."""
    predictor = SamPredictor(network)
    predictor.set_image(sams.photograph("astronaut"))
    logits, _, _ = predictor.predict(np.array([[250, 200]]), np.array([1]), return_logits=True)

    assert 0.02 < float((logits > 0).mean()) < 0.98
    assert float(logits.std()) > 0.1
