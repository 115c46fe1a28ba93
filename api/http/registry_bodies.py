"""The JSON bodies that the registry's routes take, and how they are read."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from starlette.requests import Request

from api.http.bodies import check_json
from api.threads import here
from modelmora.domain.models import Batching, Engine, ModelType, Precision
from modelmora.domain.pictures.picture import KEY_PATTERN
from modelmora.domain.pictures.spaces import CANDIDATES, LINKS, IndexSettings
from modelmora.domain.registry.artifact import MOST_FILES, ArtifactFile
from modelmora.domain.registry.entries import MOST_TAGS, Running
from modelmora.domain.registry.provenance import Metric, PerformanceBaseline, TrainingMetadata
from modelmora.errors import Fault, InvalidInput, ValidationFailed
from modelmora.usecases.registry import Registration
from modelmora.usecases.registry.models import Amendment

LARGEST, MOST_FAULTS, MOST_METRICS = 2**63, 100, 1_000
TOLD_APART = 10_000
"""Of a body with more faults than that none is told by itself: they would take many times its size."""
SMALL, FEW = 65_536, 500
"""Bytes of a body, and files of a version, that are looked through on the loop."""

PersonsMove = Literal[
    "retry", "submit", "approve", "reject", "resubmit", "revalidate", "undeploy", "archive", "restore", "reopen",
    "purge", "quarantine", "release",
]  # fmt: skip
"""What a person may do; the others come about by validating and by making a version current."""


def _written(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a text in RFC 3339 is expected")
    return value


Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written)]
Whole = Annotated[int, Field(ge=0, lt=LARGEST)]
Milliseconds = Annotated[float, Field(ge=0)]


class Body(BaseModel):
    """Values as JSON has them, no conversion, no other fields; what they may be is the domain's to say."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class NewModel(Body):
    """A name for versions to come."""

    name: str
    type: ModelType
    description: str = ""
    tags: Annotated[list[str], Field(max_length=MOST_TAGS)] = []
    owner: str = ""


class ModelChanges(Body):
    """What is left out stays as it is."""

    description: str = ""
    tags: Annotated[list[str], Field(max_length=MOST_TAGS)] = []
    owner: str = ""

    def amendment(self) -> Amendment:
        given = self.model_fields_set
        return Amendment(
            description=self.description if "description" in given else None,
            tags=tuple(self.tags) if "tags" in given else None,
            owner=self.owner if "owner" in given else None,
        )


class NewFile(Body):
    """A file that the object store has already."""

    path: str
    bytes: Whole
    sha256: str


class NewBatching(Body):
    """How requests are put together."""

    max_batch: Annotated[int, Field(ge=1, lt=LARGEST)] | None = None
    max_wait_ms: Milliseconds = 200.0
    queue: Annotated[int, Field(ge=1, lt=LARGEST)] = 1024


class NewIndex(Body):
    """How the vectors of kept pictures are indexed, as ModelRegistry.yaml takes it."""

    m: Annotated[int, Field(ge=LINKS[0], le=LINKS[1])] | None = None
    ef_construct: Annotated[int, Field(ge=CANDIDATES[0], le=CANDIDATES[1])] | None = None
    quantization: Literal["int8"] | None = None
    always_ram: bool = True
    on_disk: bool = False
    payload: list[Annotated[str, StringConstraints(pattern=rf"^{KEY_PATTERN}$")]] = []

    def settings(self) -> IndexSettings:
        return IndexSettings(**{**self.model_dump(), "payload": tuple(self.payload)})


def _switched(value: object) -> object:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


Indexed = Annotated[NewIndex | None, BeforeValidator(_switched)]


class NewTraining(Body):
    """Where a version comes from."""

    dataset: str = ""
    dataset_sha256: str | None = None
    revision: str = ""
    parameters: dict[str, Any] = {}
    trained_by: str = ""
    trained_at: Moment | None = None
    parent: Annotated[str, Field(description="`name@version`")] | None = None


class NewMetric(Body):
    """How well a version does on a data set."""

    name: str
    value: float
    dataset: str


class NewBaseline(Body):
    """What later measurements are held against; what is left out is measured by validation."""

    metrics: Annotated[list[NewMetric], Field(max_length=MOST_METRICS)] = []
    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    memory_bytes: Whole | None = None
    device: str = ""
    engine: str = ""
    precision: str = ""


class NewVersion(Body):
    """A version of a model; all its files are in the object store already."""

    version: Annotated[str, Field(description="a semantic version, such as 1.4.0")]
    files: Annotated[list[NewFile], Field(max_length=MOST_FILES)]
    provider: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
    config: dict[str, Any] = {}
    group: str = "default"
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$")] = "auto"
    precision: Precision = "fp32"
    engine: Engine = "torch"
    batching: NewBatching = NewBatching()
    warmup: bool = True
    pin: bool = False
    idle_ttl_s: Annotated[float, Field(gt=0)] | None = None
    index: Annotated[Indexed, Field(description="true, or settings; pictures that are kept are indexed by it")] = None
    training: NewTraining = NewTraining()
    baseline: NewBaseline = NewBaseline()

    async def registration(self) -> Registration:
        """Raises ValidationFailed naming the field."""
        return await here(self._registration, size=len(self.files), most=FEW)

    def _registration(self) -> Registration:
        told = self.training.model_dump()
        return Registration(
            version=self.version,
            files=tuple(ArtifactFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in self.files),
            running=self._running(),
            training=TrainingMetadata(**told),
            baseline=PerformanceBaseline(
                **{**self.baseline.model_dump(), "metrics": metrics_of(self.baseline.metrics)}
            ),
        )

    def _running(self) -> Running:
        return Running(
            provider=self.provider,
            config=self.config,
            group=self.group,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            batching=Batching(**self.batching.model_dump()),
            warmup=self.warmup,
            pin=self.pin,
            idle_ttl_s=self.idle_ttl_s,
            index=None if self.index is None else self.index.settings(),
        )


class Results(Body):
    """Measures of quality that were found out later."""

    metrics: Annotated[list[NewMetric], Field(min_length=1, max_length=MOST_METRICS)]


class Chosen(Body):
    """The version that the bare name is to stand for."""

    version: str


class Asked(Body):
    """A step in the life of a version."""

    move: PersonsMove
    reason: str = ""


class Sweep(Body):
    """How long ago an object must have been put there to be removed; left out: an hour."""

    older_than_s: Annotated[float, Field(ge=0, le=10 * 365 * 86_400)] | None = None


B = TypeVar("B", bound=Body)


async def taken(request: Request, body: type[B]) -> B:
    """The body of a request; raises UnsupportedMedia, InvalidInput, ValidationFailed with the fields at fault."""
    check_json(request)
    raw = await request.body()
    return await here(lambda: _validated(_parsed(raw), body), size=len(raw), most=SMALL)


async def taken_if_any(request: Request, body: type[B]) -> B:
    """The same; no body at all is an empty object."""
    return await taken(request, body) if await request.body() else body()


def metrics_of(given: list[NewMetric]) -> tuple[Metric, ...]:
    """Raises ValidationFailed."""
    return tuple(Metric(name=each.name, value=each.value, dataset=each.dataset) for each in given)


def schema_of(body: type[Body], *, required: bool = True) -> dict[str, Any]:
    """The request body on the OpenAPI page."""
    schema = body.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": whole}}}}


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as cause:
        said = "it is nested too deeply" if isinstance(cause, RecursionError) else str(cause)
        raise InvalidInput(f"the body is not JSON: {said}", field="body") from cause


def _validated(value: Any, body: type[B]) -> B:
    try:
        return body.model_validate(value)
    except ValidationError as cause:
        if (count := cause.error_count()) > TOLD_APART:
            said = f"the body does not have the shape this route takes, in {count} places"
            raise ValidationFailed(said, field="body", found=f"{count} faults") from None
        faults = [_fault(error) for error in islice(cause.errors(include_url=False), MOST_FAULTS)]
        raise ValidationFailed("the body does not have the shape this route takes", faults=faults) from cause


def _fault(error: Mapping[str, Any]) -> Fault:
    field = ".".join(str(part) for part in error["loc"]) or "body"
    found = None if error["type"] == "missing" else reprlib.repr(error["input"])[:80]
    return Fault("validation", str(error["msg"]), field=field, found=found)


def _inlined(value: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with what it refers to put in its place."""
    if isinstance(value, dict) and "$ref" in value:
        return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    if isinstance(value, dict):
        return {key: _inlined(inner, definitions) for key, inner in value.items()}
    return [_inlined(inner, definitions) for inner in value] if isinstance(value, list) else value
