"""Events: written for everybody to read, read whoever wrote them, refused where they are none; older versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as foreign
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from modelmora.domain.events.codec import read_event, schema_of, to_kept_parts
from modelmora.domain.events.data import EmbeddingFailed, EmbeddingGenerated, ModelLoaded, ModelUnloaded, read_data
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.images import (
    failed,
    generated,
    picture_of,
    registered,
    registered_data,
    removed,
    removed_data,
)
from modelmora.domain.events.models import loaded, unloaded
from modelmora.domain.events.types import IMAGE_REGISTERED, TYPES, EventTypes
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.domain.pictures.way import Verdict
from modelmora.errors import InputError, InvalidInput, LimitExceeded, UnsupportedMedia, ValidationFailed

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TYPE = "com.modelmora.image.registered.v1"
LEAST = {"image_id": "a", "object": "s3://pictures/a.jpg"}
ENVELOPE: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/x", "type": TYPE, "data": LEAST}
ABOUT: dict[str, Any] = {"source": "/modelmora/one", "id_": "e1", "time": NOON, "topic": "modelmora.images"}


@pytest.fixture
def picture() -> Picture:
    return Picture(
        id="0193-a",
        collection="birds",
        sha256="0" * 64,
        object="s3://pictures/0000",
        content_type="image/jpeg",
        bytes=1_234,
        facts=Facts(filename="Möwe.jpg", tags=("bird", "grün"), metadata={"year": 2026, "wild": True, "f": 1.5}),
        seq=3,
        created_at=NOON,
        changed_at=NOON,
        expires_at=NOON.replace(year=2027),
    )


def message(**changes: Any) -> bytes:
    """An event with other attributes; without those that are None."""
    return json.dumps({name: value for name, value in (ENVELOPE | changes).items() if value is not None}).encode()


def announcing(**data: Any) -> Event:
    return read_event(message(data=LEAST | data), topic="t")


# What we write


def test_an_announcement_read_again_is_the_picture(picture: Picture) -> None:
    event = registered(picture, **ABOUT)
    key, value, headers = to_kept_parts(event)
    assert key == b"0193-a"
    assert headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    again = read_event(value, key=key, headers=headers, topic="modelmora.images")
    assert (again.id, again.source, again.key, again.time, again.data) == (
        "e1",
        "/modelmora/one",
        "0193-a",
        NOON,
        event.data,
    )
    assert picture_of(again) == picture


def test_attributes_that_are_not_of_the_standard_come_through(picture: Picture) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = Event(
        id="1",
        source="/x",
        type=TYPE,
        topic="t",
        key="k",
        time=NOON,
        data={},
        tenant="acme",
        trace=trace,
        extensions={"colour": "blue"},
    )
    key, value, headers = to_kept_parts(event)
    again = read_event(value, key=key, headers=headers, topic="t")
    assert (again.tenant, again.trace, again.extensions["colour"]) == ("acme", trace, "blue")


def every_event(picture: Picture) -> list[Event]:
    of: dict[str, Any] = {"image_id": picture.id, "model": "m", "version": "1.0.0", "seq": 3}
    made = EmbeddingGenerated(**of, dimension=512, precision="fp32", index="mm-default-birds-m-1.0.0")
    verdict = Verdict(state="dead", stage="fetching", code="image_not_found", detail="there is no object")
    return [
        registered(picture, **ABOUT),
        removed(picture, **ABOUT),
        generated(picture, made, **ABOUT),
        failed(picture, "m@1.0.0", verdict, attempts=8, **ABOUT),
        loaded(ModelLoaded(model="m", version="1.0.0", worker="0", bytes=5), **ABOUT),
        unloaded(ModelUnloaded(model="m", version="1.0.0"), **ABOUT),
    ]


def test_another_library_reads_every_event_of_ours(picture: Picture) -> None:
    events = every_event(picture)
    assert {event.type.rpartition(".v")[0] for event in events} == set(TYPES.names)
    for event in events:
        key, value, headers = to_kept_parts(event)
        read = foreign.from_kafka(foreign.KafkaMessage(dict(headers), key, value), JSONFormat())
        assert isinstance(read, CloudEvent)
        assert (read.get_id(), read.get_source(), read.get_type()) == (event.id, event.source, event.type)
        assert (read.get_time(), read.get_data(), read.get_dataschema()) == (NOON, event.data, schema_of(event.type))
        assert read.get_extension("partitionkey") == event.key


def test_what_became_of_an_embedding_is_told_with_its_model(picture: Picture) -> None:
    _, _, made, dead, *_ = every_event(picture)
    told = read_data(EmbeddingGenerated, made.data)
    assert (told.image_id, told.model, told.version, told.dimension, told.seq) == (picture.id, "m", "1.0.0", 512, 3)
    given_up = read_data(EmbeddingFailed, dead.data)
    assert (given_up.code, given_up.stage, given_up.attempts, given_up.dead_letter) == (
        "image_not_found",
        "fetching",
        8,
        True,
    )


def test_events_of_models_are_in_the_order_of_their_model(picture: Picture) -> None:
    *_, first, second = every_event(picture)
    assert (first.key, first.subject, second.key) == ("m", "m@1.0.0", "m")


# What others write


@pytest.mark.parametrize("write", [foreign.to_structured_event, foreign.to_binary_event])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_we_read_what_another_library_writes(write: Any, as_bytes: bool) -> None:
    attributes = {"type": TYPE, "source": "https://example.org/möwen", "datacontenttype": "application/json"}
    given = {**LEAST, "tags": ["grün"]}
    data = json.dumps(given).encode() if as_bytes else given
    sent = write(CloudEvent(attributes=attributes | {"partitionkey": "a"}, data=data))
    event = read_event(sent.value, key=sent.key.encode(), headers=tuple(sent.headers.items()), topic="t")
    assert (event.key, event.source, event.type, event.data) == ("a", "https://example.org/möwen", TYPE, given)
    assert picture_of(event).facts.tags == ("grün",)


def test_the_least_that_announces_a_picture() -> None:
    event = read_event(message(), key=b"a", topic="t")
    picture = picture_of(event)
    assert (picture.id, picture.object, picture.sha256, picture.seq) == ("a", "s3://pictures/a.jpg", "", 1)
    assert (picture.tenant, picture.collection, picture.facts) == ("default", "default", Facts())
    assert picture.created_at == event.time
    assert event.time.tzinfo is UTC


def test_the_key_may_stand_in_the_event() -> None:
    assert read_event(message(partitionkey="a"), topic="t").key == "a"


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert picture_of(announcing(colour="blue")).id == "a"


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("2026-11-23T12:00:00Z", NOON),
        ("2026-11-23T13:00:00.000+01:00", NOON),
        ("2026-11-23T12:00:00", NOON),
    ],
)
def test_moments_are_in_utc(told: str, meant: datetime) -> None:
    assert read_event(message(time=told), topic="t").time == meant
    picture = picture_of(announcing(created_at=told, expires_at=told))
    assert (picture.created_at, picture.expires_at) == (meant, meant)
    assert picture.created_at.tzinfo is UTC


# What is none


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"{", b"not json", b"[" * 100_000, b'{"specversion": "1.0", "data": NaN', b"9" * 9_999]
)
def test_what_is_no_json_is_unreadable(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        read_event(value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"id": "x" * 1_025}, "id"),
        ({"id": "\0"}, "id"),
        ({"source": None}, "source"),
        ({"source": "\ud800"}, "source"),
        ({"type": ["x"]}, "type"),
        ({"subject": {}}, "subject"),
        ({"tenant": "x" * 1_025}, "tenant"),
        ({"time": "yesterday"}, "time"),
        ({"time": 5}, "time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "time"),
        ({"data": None}, "data"),
        ({"data": [1]}, "data"),
        ({"data": {"x": "\0"}}, "data.x"),
        ({"data": {"x": float("nan")}}, "data.x"),
        ({"data": {"x": 1e999}}, "data.x"),
        ({"data": {"x": 2**70}}, "data.x"),
    ],
)
def test_what_is_no_cloudevent_or_cannot_be_kept_is_told_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as told:
        read_event(message(**changes))
    assert told.value.field == field


@pytest.mark.parametrize("value", [b"[]", b"7", b'"text"', b"null"])
def test_json_that_is_no_object_is_told_so(value: bytes) -> None:
    with pytest.raises(ValidationFailed, match="no object"):
        read_event(value)


def test_data_in_base64_that_are_none_are_unreadable() -> None:
    with pytest.raises(InvalidInput, match="Base64"):
        read_event(message(data=None, data_base64="%"))
    with pytest.raises(InvalidInput, match="JSON"):
        read_event(message(data=None, data_base64="AAAA"))


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"image_id": ""}, "data.image_id"),
        ({"image_id": "x" * 65}, "data.image_id"),
        ({"image_id": "../../etc"}, "data.image_id"),
        ({"image_id": "a\n"}, "data.image_id"),
        ({"image_id": 5}, "data.image_id"),
        ({"object": "http://example.org/a.jpg"}, "data.object"),
        ({"object": "s3://x/"}, "data.object"),
        ({"object": "/etc/passwd"}, "data.object"),
        ({"sha256": "0" * 63}, "data.sha256"),
        ({"sha256": "G" * 64}, "data.sha256"),
        ({"collection": "Birds!"}, "data.collection"),
        ({"tenant": ""}, "data.tenant"),
        ({"seq": 0}, "data.seq"),
        ({"seq": 2**62}, "data.seq"),
        ({"seq": "many"}, "data.seq"),
        ({"bytes": -1}, "data.bytes"),
        ({"bytes": 2**63}, "data.bytes"),
        ({"tags": "bird"}, "data.tags"),
        ({"tags": [5]}, "tags"),
        ({"metadata": ["x"]}, "data.metadata"),
        ({"metadata": {"a key": 1}}, "metadata"),
        ({"metadata": {"key": {"deep": 1}}}, "metadata.key"),
        ({"content_type": "x" * 129}, "data.content_type"),
        ({"created_at": "yesterday"}, "data.created_at"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "data.expires_at"),
    ],
)
def test_data_that_announce_no_picture_are_told_by_their_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as told:
        picture_of(announcing(**data))
    assert told.value.field == field
    assert told.value.found


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValidationFailed) as told:
        picture_of(announcing(image_id="", seq=0, object=5))
    assert {fault.field for fault in told.value.faults} == {"data.image_id", "data.seq", "data.object"}


def test_too_many_facts_are_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        picture_of(announcing(tags=[str(number) for number in range(65)]))


def test_hostile_file_names_lose_what_makes_them_hostile() -> None:
    assert picture_of(announcing(filename="../../\u202eetc/pass\nwd")).facts.filename == "passwd"


def test_another_event_announces_no_picture(picture: Picture) -> None:
    with pytest.raises(ValidationFailed, match="another event"):
        registered_data(removed(picture, **ABOUT))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    changes=st.dictionaries(st.sampled_from([*ENVELOPE, "time", "subject", "tenant", "other", "data_base64"]), JSON),
    data=st.dictionaries(
        st.sampled_from([*LEAST, "tags", "metadata", "seq", "filename", "created_at", "sha256", "bytes", "x"]), JSON
    ),
)
def test_whatever_comes_is_read_or_refused_and_what_was_read_can_be_written(
    changes: dict[str, Any], data: dict[str, Any]
) -> None:
    value = json.dumps({**ENVELOPE, "data": {**LEAST, **data}, **changes}).encode()
    try:
        event = read_event(value, key=b"\xff", topic="t")
        to_kept_parts(event)
        picture = picture_of(event)
    except InputError:
        return
    to_kept_parts(registered(picture, **ABOUT))


@given(value=st.binary(max_size=200), header=st.binary(max_size=20))
def test_rubbish_is_refused(value: bytes, header: bytes) -> None:
    for headers in ((), (("ce_id", header), ("CE_type", header))):
        with pytest.raises(InputError):
            read_event(value, key=header, headers=headers)


# Versions


@pytest.mark.parametrize(
    "type_", ["", "x", "com.example.thing.v1", "com.modelmora.image.registered", f"{IMAGE_REGISTERED}.vx"]
)
def test_a_type_that_is_not_known_is_refused_with_those_that_are(type_: str) -> None:
    with pytest.raises(UnsupportedMedia) as told:
        TYPES.read(type_, LEAST)
    assert told.value.field == "type"
    assert TYPE in (told.value.expected or "")


def test_a_version_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnsupportedMedia) as told:
        TYPES.read(f"{IMAGE_REGISTERED}.v2", LEAST)
    assert told.value.expected == f"{IMAGE_REGISTERED}.v0, {IMAGE_REGISTERED}.v1"


def test_a_draft_is_read_as_the_version_of_today() -> None:
    draft = {"id": "a", "url": "s3://pictures/a.jpg", "labels": ["bird"], "name": "a.jpg"}
    picture = picture_of(read_event(message(type=f"{IMAGE_REGISTERED}.v0", data=draft), topic="t"))
    assert (picture.id, picture.object, picture.seq) == ("a", "s3://pictures/a.jpg", 1)
    assert (picture.facts.tags, picture.facts.filename) == (("bird",), "a.jpg")


def test_versions_are_climbed_one_by_one() -> None:
    types = EventTypes(
        {"thing": 3}, {("thing", 1): lambda data: {**data, "two": 2}, ("thing", 2): lambda _: {"all": 3}}
    )
    assert types.read("thing.v1", {}) == ("thing", {"all": 3})
    assert types.read("thing.v3", {"as": "is"}) == ("thing", {"as": "is"})
    assert types.versions("thing") == ("thing.v1", "thing.v2", "thing.v3")
    assert types.written("thing") == "thing.v3"


def test_a_removal_is_read_again(picture: Picture) -> None:
    told = removed_data(removed(picture, **ABOUT))
    assert (told.image_id, told.sha256, told.object, told.seq) == (picture.id, picture.sha256, picture.object, 3)
