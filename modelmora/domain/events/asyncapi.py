"""The AsyncAPI 3.0 document of all events, made of the types that check them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelmora.domain.events.codec import MOST_CHARS, schema_of
from modelmora.domain.events.data import (
    EmbeddingFailed,
    EmbeddingGenerated,
    EventData,
    ImageMetadataRegistered,
    ImageRemoved,
    ModelLoaded,
    ModelUnloaded,
)
from modelmora.domain.events.envelope import CONTENT_TYPE, SPEC
from modelmora.domain.events.types import (
    EMBEDDING_FAILED,
    EMBEDDING_GENERATED,
    IMAGE_REGISTERED,
    IMAGE_REMOVED,
    MODEL_LOADED,
    MODEL_UNLOADED,
    TYPES,
)

VERSION = "1.0.0"
"""Of the contract: the first number changes where a reader of an older one would fail."""

_SCHEMAS = "#/components/schemas/"
_IMAGE_KEY, _MODEL_KEY = "the picture's id", "the model's name"


@dataclass(frozen=True, slots=True)
class Told:
    """A type of event as the document has it. `takes`: we also read it, whoever wrote it."""

    name: str
    data: type[EventData]
    channel: Literal["images", "models"]
    takes: bool = False

    @property
    def title(self) -> str:
        return self.data.__name__


EVENTS = (
    Told(IMAGE_REGISTERED, ImageMetadataRegistered, "images", takes=True),
    Told(IMAGE_REMOVED, ImageRemoved, "images", takes=True),
    Told(EMBEDDING_GENERATED, EmbeddingGenerated, "images"),
    Told(EMBEDDING_FAILED, EmbeddingFailed, "images"),
    Told(MODEL_LOADED, ModelLoaded, "models"),
    Told(MODEL_UNLOADED, ModelUnloaded, "models"),
)


def asyncapi_document(
    *, images_topic: str = "modelmora.images", models_topic: str = "modelmora.models"
) -> dict[str, Any]:
    """Plain JSON values, the same at every call."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ModelMora events",
            "version": VERSION,
            "description": "CloudEvents 1.0 on Kafka, at least once, in the order of each key. We write structured "
            "mode and read structured and binary mode. docs/events.md has examples and the guarantees.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": _channels(images_topic, models_topic),
        "operations": _operations(),
        "components": {
            "messages": {told.title: _message(told) for told in EVENTS} | {"DeadLetter": _dead_letter()},
            "schemas": {"CloudEvent": _envelope()} | _schemas(),
        },
    }


def _channels(images_topic: str, models_topic: str) -> dict[str, Any]:
    return {
        "images": _channel(images_topic, "Pictures and what became of them, keyed by the picture's id.", "images"),
        "models": _channel(models_topic, "Models in memory, keyed by the model's name.", "models"),
        "deadLetters": {
            "address": f"{images_topic}.dlq",
            "description": "Messages that were given up, as they came, with the reason in their headers.",
            "messages": {"DeadLetter": _ref("messages", "DeadLetter")},
        },
    }


def _channel(address: str, description: str, channel: str) -> dict[str, Any]:
    messages = {told.title: _ref("messages", told.title) for told in EVENTS if told.channel == channel}
    return {"address": address, "description": description, "messages": messages}


def _operations() -> dict[str, Any]:
    taken = [told for told in EVENTS if told.takes]
    operations = {
        f"{action}{channel.title()}": {
            "action": action,
            "channel": _ref("channels", channel, root="#"),
            "messages": [{"$ref": f"#/channels/{channel}/messages/{told.title}"} for told in some],
        }
        for action, channel, some in (
            ("send", "images", [told for told in EVENTS if told.channel == "images"]),
            ("receive", "images", taken),
            ("send", "models", [told for told in EVENTS if told.channel == "models"]),
        )
    }
    letters = _ref("channels", "deadLetters", root="#")
    return operations | {"sendDeadLetters": {"action": "send", "channel": letters}}


def _message(told: Told) -> dict[str, Any]:
    type_ = TYPES.written(told.name)
    older = TYPES.versions(told.name)[:-1]
    also = f" Also read: {', '.join(older)}." if told.takes and older else ""
    return {
        "name": told.title,
        "title": type_,
        "summary": (told.data.__doc__ or "").strip() + also,
        "contentType": CONTENT_TYPE,
        "payload": {
            "allOf": [
                {"$ref": f"{_SCHEMAS}CloudEvent"},
                {
                    "type": "object",
                    "properties": {
                        "type": {"const": type_},
                        "dataschema": {"const": schema_of(type_)},
                        "data": {"$ref": f"{_SCHEMAS}{told.title}"},
                    },
                    "required": ["type", "data"],
                },
            ]
        },
        "bindings": _keyed(_IMAGE_KEY if told.channel == "images" else _MODEL_KEY),
    }


def _dead_letter() -> dict[str, Any]:
    texts = {
        "error-code": "an error code, such as image_not_found",
        "error-detail": "what was wrong",
        "attempts": "how often it was tried, a whole number",
        "first-failed": "when it first failed, RFC 3339",
        "dead-letter-id": "what `modelmora dlq show` takes",
    }
    return {
        "name": "DeadLetter",
        "title": "a message that was given up",
        "summary": "Key and value are those of the message as it came; its headers are kept, these are added.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string", "description": about} for name, about in texts.items()},
            "required": list(texts),
        },
        "payload": {"description": "the message's value, which need not be an event"},
        "bindings": _keyed("the message's own"),
    }


def _keyed(about: str) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": about}, "bindingVersion": "0.5.0"}}


def _envelope() -> dict[str, Any]:
    """The attributes that we write; of another producer only the first four and the data are needed."""
    text = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}
    return {
        "title": "CloudEvent",
        "type": "object",
        "properties": {
            "specversion": {"const": SPEC},
            "id": text | {"description": "with source the name of the event: the same twice is taken once"},
            "source": text | {"format": "uri-reference"},
            "type": text,
            "subject": {"type": "string", "maxLength": MOST_CHARS},
            "time": {"type": "string", "format": "date-time"},
            "dataschema": {"type": "string", "format": "uri"},
            "datacontenttype": {"const": "application/json"},
            "partitionkey": {"type": "string", "description": "the message's key"},
            "tenant": {"type": "string"},
            "traceparent": {"type": "string", "description": "W3C Trace Context"},
            "data": {"type": "object"},
        },
        "required": ["specversion", "id", "source", "type", "data"],
    }


def _schemas() -> dict[str, Any]:
    return {told.title: _schema(told.data) for told in EVENTS}


def _schema(data: type[EventData]) -> dict[str, Any]:
    schema: dict[str, Any] = data.model_json_schema(ref_template=_SCHEMAS + "{model}")
    for field in schema["properties"].values():
        field.pop("title", None)
    return schema


def _ref(kind: str, name: str, *, root: str = "#/components") -> Mapping[str, str]:
    return {"$ref": f"{root}/{kind}/{name}"}
