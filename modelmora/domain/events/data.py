"""What each type of event carries, as pydantic models: they check what comes and describe themselves."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from modelmora.domain.pictures.picture import COLLECTION_PATTERN
from modelmora.errors import Fault, ValidationFailed

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Collection = Annotated[str, Field(pattern=f"^{COLLECTION_PATTERN}$")]
Seq = Annotated[int, Field(ge=1, lt=2**62)]
Bytes = Annotated[int, Field(ge=0, lt=2**62)]
_OBJECT = re.compile(r"(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S.{0,1023}|file:///.{1,4095})", re.DOTALL)


def _object(value: str) -> str:
    if not _OBJECT.fullmatch(value):
        raise ValueError("s3://bucket/key or file:///path")
    return value


def _utc(value: datetime) -> datetime:
    """One without a zone is taken as UTC."""
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment that UTC has no form for") from None


Moment = Annotated[datetime, AfterValidator(_utc)]


class EventData(BaseModel):
    """Fields that a later release adds are passed over by an older one."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)


class _OfImage(EventData):
    image_id: Id
    tenant: Id = "default"
    collection: Collection = "default"


class ImageMetadataRegistered(_OfImage):
    """A picture lies in the object store and is to be embedded and indexed."""

    object: Annotated[str, AfterValidator(_object)]
    sha256: Sha256 | None = None
    content_type: Annotated[str, Field(max_length=128)] = ""
    bytes: Bytes = 0
    filename: str = ""
    tags: list[Any] = []
    metadata: dict[str, Any] = {}
    seq: Seq = 1
    created_at: Moment | None = None
    expires_at: Moment | None = None


class ImageRemoved(_OfImage):
    """A picture was removed; its vectors and its bytes go."""

    sha256: Sha256
    object: str
    seq: Seq


class EmbeddingGenerated(_OfImage):
    """A picture's vector by one version of a model is in its index."""

    model: str
    version: str
    dimension: Annotated[int, Field(ge=1)]
    precision: str
    seq: Seq
    index: str


class EmbeddingFailed(_OfImage):
    """A picture was given up for one version of a model; `dead_letter` says whether it can be replayed."""

    model: str
    version: str
    code: str
    detail: str
    stage: Literal["", "reading", "fetching", "embedding", "upserting"] = ""
    attempts: Annotated[int, Field(ge=0)] = 1
    seq: Seq
    dead_letter: bool = True


class ModelLoaded(EventData):
    """A runner has a model in memory."""

    model: str
    version: str
    worker: str = ""
    bytes: Bytes = 0


class ModelUnloaded(EventData):
    """A runner let a model go."""

    model: str
    version: str
    worker: str = ""


T = TypeVar("T", bound=EventData)


def read_data(kind: type[T], data: object) -> T:
    """The data, checked; raises ValidationFailed with every fault."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = [_fault(each) for each in error.errors(include_url=False)]
        first = faults[0]
        said = f"the data of the event are not those of {kind.__name__}: {first.field}: {first.detail}"
        raise ValidationFailed(said, field=first.field, found=first.found, faults=faults) from None


def _fault(each: Any) -> Fault:
    field = ".".join(("data", *map(str, each["loc"])))
    return Fault("validation", each["msg"], field=field, found=repr(each.get("input"))[:80])
