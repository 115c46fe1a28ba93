"""A model and its versions as they are registered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from modelmora.domain.models import (
    GROUP_PATTERN,
    NAME_PATTERN,
    Batching,
    Engine,
    ModelSpec,
    ModelType,
    Precision,
)
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.domain.registry.artifact import Artifact
from modelmora.domain.registry.lifecycle import SERVABLE, Move, VersionState, after
from modelmora.domain.registry.provenance import PerformanceBaseline, TrainingMetadata
from modelmora.domain.registry.semver import SemVer
from modelmora.domain.registry.texts import check_json, check_length, check_number, check_text
from modelmora.domain.tensors import TensorSpec
from modelmora.errors import ValidationFailed, WrongState

_NAME, _GROUP = re.compile(NAME_PATTERN), re.compile(GROUP_PATTERN)
MOST_TAGS, LONGEST_TAG, LONGEST_DESCRIPTION = 64, 64, 10_000
LONGEST_WORD, LONGEST_SOURCE = 64, 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A name under which versions of one type are found; `current` is the version that the bare name stands for.

    `id` is a UUIDv7; `row` counts its changes, from 1. Moments have a time zone. `chosen`: somebody chose the current
    version, and what is declared does not move it.
    """

    id: str
    name: str
    type: ModelType
    description: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    current: str | None = None
    chosen: bool = False
    created_at: datetime
    changed_at: datetime
    row: int = 1

    def __post_init__(self) -> None:
        check_name(self.name)
        check_length(self.description, field="description", most=LONGEST_DESCRIPTION)
        check_length(self.owner, field="owner")
        if len(self.tags) > MOST_TAGS or len(set(self.tags)) < len(self.tags):
            expected = f"at most {MOST_TAGS} different ones"
            raise ValidationFailed(
                "too many tags, or one twice", field="tags", found=str(len(self.tags)), expected=expected
            )
        for tag in self.tags:
            check_length(tag, field="tags", least=1, most=LONGEST_TAG)

    @property
    def key(self) -> str:
        """Its name: what the audit and errors call it."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a version is run where nothing else is said: which provider, on what, in what, in which group.

    The rest is as in `ModelSpec`; `default` is of what is declared alone.
    """

    provider: str
    config: Mapping[str, Any] = field(default_factory=dict)
    group: str = "default"
    device: str = "auto"
    precision: Precision = "fp32"
    engine: Engine = "torch"
    batching: Batching = field(default_factory=Batching)
    warmup: bool = True
    pin: bool = False
    idle_ttl_s: float | None = None
    index: IndexSettings | None = None
    default: bool = False

    def __post_init__(self) -> None:
        for name in ("provider", "device"):
            check_length(getattr(self, name), field=name, least=1, most=LONGEST_WORD)
        check_json(self.config, field="config")
        if self.idle_ttl_s is not None:
            check_number(self.idle_ttl_s, field="idle_ttl_s", least=0.0)
        if not _GROUP.fullmatch(self.group):
            raise ValidationFailed("not a group's name", field="group", found=self.group[:80], expected=GROUP_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version: what it consists of never changes, its state and what was found out about it do.

    `source` is where its files come from: `object:<sha256>` of its artifact, or what was declared (`bundled:`, `hub:`,
    `file:`), whose files are not in the object store: then `artifact` is None. `declared`: ModelRegistry.yaml declares
    it, or did so (False) until it was archived for that; None: it was registered by somebody.
    `inputs`, `outputs` and `labels` are as the validated model describes them; `validated_at` is None until it was
    validated, and again when that does not count any more. `row` counts its changes, from 1.
    """

    id: str
    model: str
    version: str
    type: ModelType
    state: VersionState = "registered"
    source: str
    artifact: Artifact | None = None
    declared: bool | None = None
    running: Running
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: tuple[str, ...] = ()
    training: TrainingMetadata = field(default_factory=TrainingMetadata)
    baseline: PerformanceBaseline = field(default_factory=PerformanceBaseline)
    validated_at: datetime | None = None
    failure: str = ""
    created_at: datetime
    changed_at: datetime
    row: int = 1

    def __post_init__(self) -> None:
        check_name(self.model)
        SemVer(self.version)
        check_length(self.source, field="source", least=1, most=LONGEST_SOURCE)
        check_text("".join(self.labels), field="labels")
        check_text("".join(spec.name for spec in (*self.inputs, *self.outputs)), field="inputs")
        if self.artifact is not None and self.source != f"object:{self.artifact.sha256}":
            said, expected = "a source that is not its artifact", f"object:{self.artifact.sha256}"
            raise ValidationFailed(said, field="source", found=self.source[:80], expected=expected)

    @property
    def key(self) -> str:
        """`name@version`."""
        return f"{self.model}@{self.version}"

    @property
    def kept_as(self) -> str | None:
        """The digest of its artifact; None where its files are not in the object store."""
        scheme, _, sha256 = self.source.partition(":")
        return sha256 if scheme == "object" else None

    @property
    def objects(self) -> frozenset[str]:
        """What must stay in the object store for it: its files as far as they are known, and the list of them."""
        if self.kept_as is None or self.state == "purged":
            return frozenset()
        files = () if self.artifact is None else self.artifact.files
        return frozenset({self.kept_as, *(file.sha256 for file in files)})

    @property
    def servable(self) -> bool:
        """Whether it may be loaded and routed to."""
        return self.state in SERVABLE

    def moved(self, move: Move, *, at: datetime, failure: str = "") -> ModelVersion:
        """The version after a move of its lifecycle; raises WrongState naming what is allowed.

        `failure` is why it did not pass, where it did not.
        """
        state = after(self.state, move)
        if move == "restore" and self.validated_at is None:
            said = f"{self.key} was not validated before it was archived"
            raise WrongState(said, field="state", found=self.state, expected="reopen")
        validated_at = at if move == "validate" else None if state == "registered" else self.validated_at
        return replace(self, state=state, failure=failure, validated_at=validated_at, changed_at=at, row=self.row + 1)

    def spec(self) -> ModelSpec:
        """What a runner loads; raises WrongState for a version that may not be."""
        if not self.servable:
            found, expected = self.state, " or ".join(sorted(SERVABLE))
            raise WrongState(f"{self.key} is {found} and is not served", field="state", found=found, expected=expected)
        return self.trial()

    def trial(self) -> ModelSpec:
        """What a runner loads to find out whether the version is what it is said to be, whatever its state."""
        how = self.running
        return ModelSpec(
            name=self.model,
            version=self.version,
            type=self.type,
            provider=how.provider,
            source=self.source,
            group=how.group,
            default=how.default,
            config=how.config,
            device=how.device,
            precision=how.precision,
            engine=how.engine,
            batching=how.batching,
            warmup=how.warmup,
            pin=how.pin,
            idle_ttl_s=how.idle_ttl_s,
            index=how.index,
        )


def check_name(name: str) -> None:
    """Raises ValidationFailed for what is no model's name."""
    if not _NAME.fullmatch(name):
        raise ValidationFailed("not a model's name", field="name", found=name[:80], expected=NAME_PATTERN)
