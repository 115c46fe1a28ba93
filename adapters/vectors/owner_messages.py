"""What crosses between a process that asks for vectors and the one that has them: JSON of checked values, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from modelmora.domain.pictures.search import Hit, Point, Question
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import ModelMoraError, from_code

METHOD = "/modelmora.vectors.v1.VectorOwner/Call"
MOST_BYTES = 64 * 2**20


class Message(BaseModel):
    """Bytes cross as base64."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


class Create(Message):
    kind: Literal["create"] = "create"
    name: str
    dimension: int
    settings: IndexSettings


class Upsert(Message):
    kind: Literal["upsert"] = "upsert"
    name: str
    points: list[Point]


class Delete(Message):
    kind: Literal["delete"] = "delete"
    name: str
    picture_ids: list[str]


class Get(Message):
    kind: Literal["vectors"] = "vectors"
    name: str
    picture_ids: list[str]


class Points(Message):
    kind: Literal["points"] = "points"
    name: str
    picture_ids: list[str]


class Search(Message):
    kind: Literal["search"] = "search"
    name: str
    question: Question


class Count(Message):
    kind: Literal["count"] = "count"
    name: str


class Ids(Message):
    kind: Literal["ids"] = "ids"
    name: str
    after: str | None
    limit: int


class Switch(Message):
    kind: Literal["switch"] = "switch"
    alias: str
    name: str


class Plain(Message):
    kind: Literal["standing", "names", "ping"]


class Drop(Message):
    kind: Literal["drop"] = "drop"
    name: str


Asked: TypeAlias = Create | Upsert | Delete | Get | Points | Search | Count | Ids | Switch | Plain | Drop
ASKED: TypeAdapter[Asked] = TypeAdapter(Annotated[Asked, Field(discriminator="kind")])


class Error(Message):
    code: str
    detail: str
    field: str | None
    found: str | None
    expected: str | None
    retry_after_s: float | None


class Answer(Message):
    """One of the fields, or none."""

    error: Error | None = None
    hits: list[Hit] | None = None
    vectors: Mapping[str, bytes] | None = None
    points: list[Point] | None = None
    count: int = 0
    names: tuple[str, ...] = ()
    following: str | None = None
    standing: Mapping[str, str] | None = None


def packed(message: Message) -> bytes:
    return message.model_dump_json().encode()


def asked(data: bytes) -> Any:
    return ASKED.validate_json(data)


def failed(error: ModelMoraError) -> Answer:
    return Answer(error=Error(**{name: getattr(error, name) for name in Error.model_fields}))


def raised(error: Error) -> ModelMoraError:
    """The error by its code, as the owner raised it."""
    again = from_code(error.code, error.detail, retry_after_s=error.retry_after_s)
    again.field, again.found, again.expected = error.field, error.found, error.expected
    return again
