"""The use case behind every classifying face: whose labels, which model, how many classes, and labels embedded once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description, Scoring
from modelmora.domain.inference import Call, Content, Image, Inference, Text, Timings
from modelmora.domain.labels import LabelSet
from modelmora.domain.likelihoods import likelihoods, ranked
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.domain.progress import Step
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    LimitExceeded,
    ModelLoadFailed,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
    VersionNotFound,
)
from modelmora.usecases.classify import Classification
from modelmora.usecases.single_flight import ENTRY_BYTES, KeptArrays
from modelmora.usecases.zero_shot import AT_ONCE
from tests.fakes import CLIP, DIMENSION, SAM, TIMINGS, VIT, World, vector_of

CALL = Call(request_id="r", deadline=math.inf)
READ_ERROR = Failed(InvalidInput("the door could not read it"))
RESNET = ModelSpec(
    name="resnet",
    version="1.0.0",
    type="classification",
    provider="classifier",
    source="hub:somebody/resnet",
    default=True,
)
OWN_LABELS = ("cat", "dog", "bird")
IMAGE, TEXT = Preprocess(resize="exact", height=1, width=1), TextPreprocess(tokenizer="bytes", context_length=0)
DESCRIPTIONS = {
    "clip@1.0.0": Description(
        model="clip@1.0.0", dimension=DIMENSION, image=IMAGE, text=TEXT, scoring=Scoring(scale=10.0)
    ),
    "vit@2.0.0-rc.1": Description(model="vit@2.0.0-rc.1", dimension=DIMENSION, image=IMAGE),
    "resnet@1.0.0": Description(model="resnet@1.0.0", image=IMAGE, labels=OWN_LABELS, scoring=Scoring()),
}


def world_of(*models: ModelSpec, **more: Any) -> World:
    world = World(catalogue=Catalogue(models or (CLIP, VIT, SAM, RESNET), (GroupSpec(),)), **more)
    world.describer.known.update(DESCRIPTIONS)
    return world


def pictures(*contents: bytes) -> list[Outcome[Content]]:
    return [Ok(Image(content)) for content in contents]


def shown(answer: Classification) -> list[list[tuple[str, float]] | str]:
    """Each picture's labels with their scores, or its error's code."""
    return [
        [(each.label, round(each.score, 4)) for each in outcome.value.classes]
        if isinstance(outcome, Ok)
        else outcome.error.code
        for outcome in answer.outcomes
    ]


def normalised(vector: Any) -> Any:
    return np.array(vector) / np.linalg.norm(vector)


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


async def refused(world: World, *items: Outcome[Content], ref: str | None = None, **options: Any) -> ModelMoraError:
    """What the request as a whole is refused with."""
    with pytest.raises(ModelMoraError) as caught:
        await world.classify()(ref, items or pictures(b"1"), call=CALL, **options)
    return caught.value


# --- a classifier's own labels -----------------------------------------------------------------------------------


async def test_a_classifier_answers_its_own_labels_the_likeliest_first() -> None:
    world = world_of()

    answer = await world.classify()(None, pictures(b"1", b"2"), call=CALL)

    expected = softmax([1.0, 3.0, 2.0])
    one = [("dog", round(expected[1], 4)), ("bird", round(expected[2], 4)), ("cat", round(expected[0], 4))]
    assert shown(answer) == [one, one]
    assert answer.model is RESNET
    assert answer.timings == TIMINGS
    assert world.classifier.asked == [(RESNET, [Image(b"1"), Image(b"2")], CALL)]
    assert world.embedder.asked == []


async def test_a_class_keeps_its_place_among_the_labels() -> None:
    answer = await world_of().classify()("resnet", pictures(b"1"), top_k=2, call=CALL)

    (outcome,) = answer.outcomes
    assert isinstance(outcome, Ok)
    assert [(each.index, each.label) for each in outcome.value.classes] == [(1, "dog"), (2, "bird")]


async def test_a_threshold_may_leave_no_class_at_all() -> None:
    world = world_of()

    assert shown(await world.classify()(None, pictures(b"1"), threshold=0.24, call=CALL)) == [
        [("dog", 0.6652), ("bird", 0.2447)]
    ]
    assert shown(await world.classify()(None, pictures(b"1"), threshold=1, call=CALL)) == [[]]


async def test_a_picture_fails_alone() -> None:
    world = world_of()
    world.classifier.fails = {b"torn": InvalidInput("torn")}
    items: list[Outcome[Content]] = [
        READ_ERROR,
        Ok(Image(b"1")),
        Ok(Text("a text")),
        Ok(Image(b"torn")),
        Ok(Image(b"x" * 4097)),
        Ok(Image(b"2")),
    ]

    answer = await world.classify()(None, items, top_k=1, call=CALL)

    dog = [("dog", 0.6652)]
    assert shown(answer) == ["invalid_input", dog, "capability_missing", "invalid_input", "limit_exceeded", dog]
    assert world.classifier.asked[0][1] == [Image(b"1"), Image(b"torn"), Image(b"2")]


async def test_pictures_that_all_failed_at_the_door_ask_nobody() -> None:
    world = world_of()

    assert shown(await world.classify()(None, [READ_ERROR], call=CALL)) == ["invalid_input"]
    assert shown(await world.classify()(None, [READ_ERROR], labels=["a"], call=CALL)) == ["invalid_input"]
    assert (world.classifier.asked, world.embedder.asked) == ([], [])


async def test_whoever_watches_is_told_of_the_places_in_the_request() -> None:
    world, told = world_of(), []
    await world.classify()(None, [READ_ERROR, *pictures(b"1")], watch=lambda i, s: told.append((i, s)), call=CALL)
    assert world.classifier.watch is not None
    world.classifier.watch(0, Step("queued"))

    world.embedder.steps = [Step("inference", 1, 2)]
    await world.classify()(
        "clip", [READ_ERROR, *pictures(b"1")], labels=["a"], watch=lambda i, s: told.append((i, s)), call=CALL
    )

    assert told == [(1, Step("queued")), (1, Step("inference", 1, 2))]


@pytest.mark.parametrize("gives", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0), (), (1.0, math.nan, 2.0), (1.0, math.inf, 2.0)])
async def test_scores_that_cannot_be_are_a_defect_of_that_picture(gives: Sequence[float]) -> None:
    world = world_of()
    world.classifier.gives = gives

    assert shown(await world.classify()(None, pictures(b"1"), call=CALL)) == ["internal"]


async def test_one_record_is_left_of_all_pictures() -> None:
    kept: list[Inference] = []
    world = world_of(hooks=[kept.append])

    await world.classify()(None, [READ_ERROR, *pictures(b"1")], call=CALL)
    await world.classify()(None, pictures(b"1", b"2"), labels=["a", "b"], call=CALL)

    assert [(r.task, r.model, r.items) for r in kept] == [("classify", RESNET, 2), ("classify", CLIP, 2)]
    assert [type(o) for o in kept[0].outcomes] == [Failed, Ok]


async def test_timings_are_nothing_when_all_failed() -> None:
    assert (await world_of().classify()(None, [READ_ERROR], call=CALL)).timings == Timings()


# --- the caller's labels -----------------------------------------------------------------------------------------


async def test_labels_are_scored_by_their_likeness_to_the_picture() -> None:
    world = world_of()
    labels = ["cat", "dog"]

    answer = await world.classify()(None, pictures(b"a photo of a dog.", b"2"), labels=labels, call=CALL)

    texts = [normalised(vector_of(f"a photo of a {label}.".encode())) for label in labels]
    assert answer.model is CLIP
    for content, outcome in zip((b"a photo of a dog.", b"2"), answer.outcomes, strict=True):
        assert isinstance(outcome, Ok)
        expected = softmax([10.0 * float(np.array(vector_of(content)) @ text) for text in texts])
        scores = {each.label: each.score for each in outcome.value.classes}
        assert scores == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-6)
    assert [(a.task, a.items) for a in world.embedder.asked] == [
        ("embed_text", (Text("a photo of a cat."), Text("a photo of a dog."))),
        ("embed_image", (Image(b"a photo of a dog."), Image(b"2"))),
    ]
    assert world.classifier.asked == []


async def test_a_label_is_the_mean_of_its_templates() -> None:
    world = world_of()
    templates = ["a {}", "{} in the snow", "the {}!"]

    answer = await world.classify()(None, pictures(b"1"), labels=["cat", "dog"], templates=templates, call=CALL)

    means = [
        normalised(sum(np.array(vector_of(t.replace("{}", label).encode())) for t in templates))
        for label in ("cat", "dog")
    ]
    expected = softmax([10.0 * float(np.array(vector_of(b"1")) @ mean) for mean in means])
    (outcome,) = answer.outcomes
    assert isinstance(outcome, Ok)
    assert sorted(each.score for each in outcome.value.classes) == pytest.approx(sorted(expected), abs=1e-6)


async def test_with_a_bias_each_label_counts_by_itself() -> None:
    world = world_of()
    world.describer.known["clip@1.0.0"] = replace(
        DESCRIPTIONS["clip@1.0.0"], scoring=Scoring(activation="sigmoid", scale=10.0, bias=-12.0)
    )

    answer = await world.classify()(None, pictures(b"1"), labels=["cat", "dog"], call=CALL)

    logits = [
        10.0 * float(np.array(vector_of(b"1")) @ normalised(vector_of(f"a photo of a {label}.".encode()))) - 12.0
        for label in ("cat", "dog")
    ]
    (outcome,) = answer.outcomes
    assert isinstance(outcome, Ok)
    assert {each.label: each.score for each in outcome.value.classes} == pytest.approx(
        {"cat": 1 / (1 + math.exp(-logits[0])), "dog": 1 / (1 + math.exp(-logits[1]))}, abs=1e-6
    )


async def test_a_single_label_is_certain_by_softmax() -> None:
    assert shown(await world_of().classify()(None, pictures(b"1"), labels=["cat"], call=CALL)) == [[("cat", 1.0)]]


async def test_labels_are_answered_as_they_were_sent() -> None:
    labels = ["Größe", "  two  spaces ", "猫", "🐈‍⬛", "{}", "a\tb", "DOG"]

    answer = await world_of().classify()(None, pictures(b"1"), labels=labels, top_k=50, call=CALL)

    (outcome,) = answer.outcomes
    assert isinstance(outcome, Ok)
    assert sorted((each.index, each.label) for each in outcome.value.classes) == list(enumerate(labels))


# --- who serves --------------------------------------------------------------------------------------------------


async def test_an_embedding_model_without_labels_says_what_would_make_it_a_classifier() -> None:
    error = await refused(world_of(), ref="clip")

    assert isinstance(error, CapabilityMissing)
    assert error.detail == "clip@1.0.0 has no labels of its own; name some in `labels`, or a classifier in `model`"
    assert (error.field, error.found) == ("labels", "none")


@pytest.mark.parametrize("labels", [(), ("cat",)])
async def test_a_model_without_a_text_tower_says_what_it_can(labels: Sequence[str]) -> None:
    error = await refused(world_of(), ref="vit", labels=labels)

    assert isinstance(error, CapabilityMissing)
    assert error.detail == "vit@2.0.0-rc.1 cannot classify; it can embed pictures"


@pytest.mark.parametrize("labels", [(), ("cat",)])
async def test_a_segmenting_model_says_what_it_can(labels: Sequence[str]) -> None:
    error = await refused(world_of(), ref="sam", labels=labels)

    assert isinstance(error, CapabilityMissing)
    assert error.detail == "sam@1.0.0 cannot classify; it can segment"


async def test_a_classifier_takes_no_other_labels_than_its_own() -> None:
    error = await refused(world_of(), ref="resnet", labels=["cat"])

    assert isinstance(error, CapabilityMissing)
    assert "knows its own labels and takes no others" in error.detail
    assert error.field == "labels"


async def test_without_a_default_classifier_the_error_says_that_labels_would_do() -> None:
    error = await refused(world_of(CLIP))

    assert isinstance(error, ModelNotFound)
    assert "no classification model is the default; none is declared, or give `labels`" in error.detail


@pytest.mark.parametrize(
    ("ref", "error"), [("nothing", ModelNotFound), ("clip@9.9.9", VersionNotFound), ("a/b", ValidationFailed)]
)
@pytest.mark.parametrize("labels", [(), ("cat",)])
async def test_who_is_not_there_cannot_serve(ref: str, error: type[ModelMoraError], labels: Sequence[str]) -> None:
    assert type(await refused(world_of(), ref=ref, labels=labels)) is error


async def test_a_model_that_cannot_be_described_says_why() -> None:
    world = world_of()
    world.describer.raises = ModelLoadFailed("no config.json")

    assert isinstance(await refused(world, labels=["cat"]), ModelLoadFailed)


# --- what is asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "error"), [(0, ValidationFailed), (9, LimitExceeded)])
async def test_the_number_of_pictures_is_checked_first(count: int, error: type[ModelMoraError]) -> None:
    with pytest.raises(error) as caught:
        await world_of().classify()("nothing", pictures(*[b"1"] * count), top_k=0, call=CALL)
    assert caught.value.field == "items"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1_001}, "top_k"),
        ({"threshold": -0.01}, "threshold"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": math.inf}, "threshold"),
        ({"templates": ["a {}"]}, "templates"),
        ({"labels": [""]}, "labels[0]"),
        ({"labels": ["cat", " \t"]}, "labels[1]"),
        ({"labels": ["cat"], "templates": ["a cat"]}, "templates[0]"),
        ({"labels": ["cat"], "templates": ["a {}", "{} and {}"]}, "templates[1]"),
        ({"labels": ["cat"], "templates": ["a {label}"]}, "templates[0]"),
        ({"labels": ["cat"], "templates": [""]}, "templates[0]"),
    ],
)
async def test_what_cannot_be_names_its_field(options: dict[str, Any], field: str) -> None:
    world = world_of()

    error = await refused(world, **options)

    assert isinstance(error, ValidationFailed)
    assert error.field == field
    assert error.found is not None
    assert error.expected is not None
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    "labels", [["cat", "dog", "cat"], ["cat", "dog", "CAT"], ["a cat", "dog", " a  cat "], ["café", "x", "cafe\u0301"]]
)
async def test_labels_that_a_model_reads_alike_are_refused(labels: list[str]) -> None:
    error = await refused(world_of(), labels=labels)

    assert isinstance(error, ValidationFailed)
    assert error.field == "labels[2]"
    assert "labels[0] again" in error.detail


async def test_every_fault_of_the_labels_is_told_up_to_a_number() -> None:
    error = await refused(world_of(), labels=["", "a", "A", ""], templates=["x"])
    assert [fault.field for fault in error.faults] == ["labels[0]", "labels[3]", "labels[2]", "templates[0]"]
    assert error.detail.startswith("4 things are wrong with the labels; the first: labels[0]: the label is empty")

    many = await refused(world_of(), labels=["same"] * 1_000)
    assert len(many.faults) == 20
    assert many.detail.startswith("999 things are wrong")


@pytest.mark.parametrize(("field", "most"), [("labels", 1_000), ("templates", 100)])
async def test_too_many_are_refused_at_once(field: str, most: int) -> None:
    options: dict[str, Any] = {"labels": ["cat"], field: [f"{{}} {number}" for number in range(most + 1)]}

    error = await refused(world_of(), **options)

    assert isinstance(error, LimitExceeded)
    assert (error.field, error.expected) == (field, f"at most {most}")


async def test_a_label_that_is_too_long_in_a_template_is_named_before_anything_is_embedded() -> None:
    world = world_of()
    labels = [f"label {number}" for number in range(AT_ONCE + 1)]

    error = await refused(world, labels=[*labels, "x" * 95], templates=["{}", "on {}s!!"])

    assert isinstance(error, LimitExceeded)
    assert error.field == f"labels[{AT_ONCE + 1}]"
    assert world.embedder.asked == []


async def test_labels_that_the_model_refuses_are_named() -> None:
    world = world_of()
    world.embedder.fails = {
        b"very": ValidationFailed(
            "the text has 90 tokens, the model takes 77", field="text", found="90 tokens", expected="<= 77 tokens"
        )
    }

    error = await refused(world, labels=["cat", "very long", "dog", "very very long"])

    assert isinstance(error, ValidationFailed)
    assert [(f.field, f.found, f.expected) for f in error.faults] == [
        ("labels[1]", "90 tokens", "<= 77 tokens"),
        ("labels[3]", "90 tokens", "<= 77 tokens"),
    ]


@pytest.mark.parametrize("cause", [Overloaded("full"), DeadlineExceeded("late"), InternalError("not finite")])
async def test_labels_that_could_not_be_embedded_are_not_the_callers_fault(cause: ModelMoraError) -> None:
    world = world_of()
    world.embedder.fails = {b"dog": cause, b"cat": ValidationFailed("too long")}

    assert await refused(world, labels=["cat", "dog"]) is cause


async def test_an_embedder_that_loses_an_outcome_is_a_defect() -> None:
    world = world_of()
    world.embedder.lost = 1

    assert isinstance(await refused(world, labels=["cat", "dog"]), InternalError)


# --- labels are embedded once ------------------------------------------------------------------------------------


def tasks(world: World) -> list[str]:
    return [asked.task for asked in world.embedder.asked]


async def test_the_same_labels_are_embedded_once() -> None:
    world = world_of()
    classify = world.classify()

    answers = [await classify(None, pictures(b"1"), labels=["cat", "dog"], call=CALL) for _ in range(3)]

    assert shown(answers[0]) == shown(answers[2])
    assert tasks(world) == ["embed_text", "embed_image", "embed_image", "embed_image"]


@pytest.mark.parametrize(
    "other",
    [
        {"labels": ["dog", "cat"]},
        {"labels": ["cat", "dog", "bird"]},
        {"labels": ["catdog"]},
        {"labels": ["Cat", "dog"]},
        {"templates": ["{}"]},
        {"templates": ["a photo of a {}.", "a photo of a {}."]},
        {"call": replace(CALL, truncate=True)},
    ],
)
async def test_other_labels_templates_or_cutting_are_embedded_anew(other: dict[str, Any]) -> None:
    world = world_of()
    classify = world.classify()

    for options in ({}, other, {}):
        await classify(None, pictures(b"1"), **{"labels": ["cat", "dog"], "call": CALL, **options})

    assert tasks(world).count("embed_text") == 2


async def test_other_versions_have_vectors_of_their_own() -> None:
    other = replace(CLIP, version="2.0.0", default=False)
    world = world_of(CLIP, other)
    world.describer.known[other.key] = DESCRIPTIONS["clip@1.0.0"]
    classify = world.classify()

    for ref in ("clip@1.0.0", "clip@2.0.0", "clip@1.0.0"):
        await classify(ref, pictures(b"1"), labels=["cat"], call=CALL)

    assert [a.model.version for a in world.embedder.asked if a.task == "embed_text"] == ["1.0.0", "2.0.0"]


async def test_many_callers_at_once_embed_their_labels_once() -> None:
    world = world_of()
    classify = world.classify()
    world.embedder.holds = {b"cat": asyncio.Event()}
    callers = [
        asyncio.create_task(classify(None, pictures(b"%d" % n), labels=["cat", "dog"], call=CALL)) for n in range(8)
    ]
    await world.embedder.entered.wait()

    world.embedder.holds[b"cat"].set()
    answers = await asyncio.gather(*callers)

    assert tasks(world).count("embed_text") == 1
    assert len({str(shown(answer)) for answer in answers}) == 8


async def test_a_caller_that_leaves_does_not_fail_the_others() -> None:
    world = world_of()
    classify = world.classify()
    world.embedder.holds = {b"cat": asyncio.Event()}
    first = asyncio.create_task(classify(None, pictures(b"1"), labels=["cat"], call=CALL))
    await world.embedder.entered.wait()
    second = asyncio.create_task(classify(None, pictures(b"2"), labels=["cat"], call=CALL))
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.embedder.holds[b"cat"].set()

    assert shown(await second) == [[("cat", 1.0)]]
    assert tasks(world).count("embed_text") == 1
    assert not world.embedder.cancelled.is_set()


async def test_when_the_last_caller_leaves_the_work_ends_and_the_next_begins_anew() -> None:
    world = world_of()
    classify = world.classify()
    world.embedder.holds = {b"cat": asyncio.Event()}
    callers = [asyncio.create_task(classify(None, pictures(b"1"), labels=["cat"], call=CALL)) for _ in range(2)]
    await world.embedder.entered.wait()

    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await asyncio.wait_for(world.embedder.cancelled.wait(), 5)
    world.embedder.holds.clear()

    assert shown(await classify(None, pictures(b"1"), labels=["cat"], call=CALL)) == [[("cat", 1.0)]]
    assert tasks(world).count("embed_text") == 2


async def test_a_callers_deadline_is_its_own() -> None:
    world = world_of()
    classify = world.classify()
    world.embedder.holds = {b"cat": asyncio.Event()}
    hurried = asyncio.create_task(
        classify(None, pictures(b"1"), labels=["cat"], call=replace(CALL, deadline=time.monotonic() + 0.05))
    )
    await world.embedder.entered.wait()
    patient = asyncio.create_task(classify(None, pictures(b"2"), labels=["cat"], call=CALL))

    with pytest.raises(DeadlineExceeded, match="labels"):
        await hurried
    world.embedder.holds[b"cat"].set()

    assert shown(await patient) == [[("cat", 1.0)]]
    assert tasks(world).count("embed_text") == 1


async def test_a_failure_reaches_all_who_wait_and_is_not_remembered() -> None:
    world = world_of()
    classify = world.classify()
    hold = asyncio.Event()
    world.embedder.holds, world.embedder.fails = {b"cat": hold}, {b"cat": Overloaded("full")}
    callers = [asyncio.create_task(classify(None, pictures(b"1"), labels=["cat"], call=CALL)) for _ in range(3)]
    await world.embedder.entered.wait()
    hold.set()
    failures = await asyncio.gather(*callers, return_exceptions=True)
    world.embedder.fails.clear()

    assert [type(failure) for failure in failures] == [Overloaded] * 3
    assert shown(await classify(None, pictures(b"1"), labels=["cat"], call=CALL)) == [[("cat", 1.0)]]


async def test_many_texts_are_asked_for_in_parts_behind_other_callers() -> None:
    world = world_of()
    labels, templates = [f"label {number}" for number in range(50)], ["{}", "a {}", "the {}"]

    answer = await world.classify()(None, pictures(b"1"), labels=labels, templates=templates, top_k=50, call=CALL)

    texts = [asked for asked in world.embedder.asked if asked.task == "embed_text"]
    assert [len(asked.items) for asked in texts] == [64, 64, 22]
    assert {asked.call.priority for asked in texts} == {"bulk"}
    assert world.embedder.asked[-1].call is CALL
    assert len(shown(answer)[0]) == 50
    few = world_of()
    await few.classify()(None, pictures(b"1"), labels=labels, call=CALL)
    assert few.embedder.asked[0].call.priority == "interactive"


async def test_the_vectors_kept_are_bounded_and_the_latest_used_stay() -> None:
    kept, made = KeptArrays(max_bytes=3 * (400 + ENTRY_BYTES)), []

    async def get(key: str) -> None:
        async def make() -> Any:
            made.append(key)
            return np.zeros(100, np.float32)

        await kept.get(key, make, within_s=1)

    for key in "abcadabc":
        await get(key)

    assert made == ["a", "b", "c", "d", "b", "c"]


async def test_what_is_larger_than_all_room_is_answered_and_not_kept() -> None:
    kept, made = KeptArrays(max_bytes=100), []

    async def make() -> Any:
        made.append(1)
        return np.zeros(100, np.float32)

    for _ in range(2):
        assert (await kept.get("a", make, within_s=1)).shape == (100,)
    assert len(made) == 2


async def test_a_making_that_ends_after_all_have_left_is_not_counted_twice() -> None:
    kept, ends = KeptArrays(max_bytes=2 * (400 + ENTRY_BYTES)), [asyncio.Event() for _ in range(3)]
    made = 0

    async def make() -> Any:
        nonlocal made
        end, made = ends[made], made + 1
        with contextlib.suppress(asyncio.CancelledError):  # as who is in the middle of something
            await end.wait()
        return np.zeros(100, np.float32)

    left = asyncio.create_task(kept.get("a", make, within_s=5))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    ends[1].set()
    await kept.get("a", make, within_s=5)
    ends[2].set()
    await kept.get("b", make, within_s=5)

    assert (await kept.get("a", make, within_s=5)).shape == (100,)
    assert made == 3


async def test_other_callers_get_their_turn_while_many_pictures_are_scored() -> None:
    world = world_of(limits=replace(World().limits, items=256))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await world.classify()(None, pictures(*[b"1"] * 256), call=CALL)
    task.cancel()

    assert turns >= 8


# --- numbers -----------------------------------------------------------------------------------------------------


def test_softmax_survives_logits_of_any_size() -> None:
    scores = likelihoods(np.array([1e30, -1e30, 3e38, 3e38], np.float32), Scoring())
    assert scores.tolist() == [0.0, 0.0, 0.5, 0.5]
    assert likelihoods(np.array([-3e38], np.float32), Scoring()).tolist() == [1.0]


def test_sigmoid_survives_logits_of_any_size() -> None:
    with np.errstate(all="raise", under="ignore"):
        scores = likelihoods(np.array([3e38, -3e38, 0.0, -0.0, 2.0], np.float32), Scoring(activation="sigmoid"))
    assert scores.tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5, 1 / (1 + math.exp(-2))])


def test_equal_scores_keep_the_order_of_their_labels() -> None:
    classes = ranked(np.array([0.25, 0.3, 0.25, 0.2, 0.0, -0.0]), "abcdef", top_k=6, threshold=-0.0)

    assert "".join(each.label for each in classes) == "bacdef"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((("a", "b"), ("{}",)), (("a',", "b"), ("{}",))),
        ((("a", "b"), ("{}",)), (("a",), ("b", "{}"))),
        ((("a\0b",), ("{}",)), (("a", "b"), ("{}",))),
        ((("é",), ("{}",)), (("e\u0301",), ("{}",))),
    ],
)
def test_different_sets_have_different_digests(one: Any, other: Any) -> None:
    assert LabelSet(*one).digest() != LabelSet(*other).digest()
    assert LabelSet(*one).digest() == LabelSet(*one).digest()
