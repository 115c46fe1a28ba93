"""What may be asked of the registry's lists; a parameter that is none is refused."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from modelmora.domain.models import ModelType
from modelmora.domain.registry.lifecycle import VersionState
from modelmora.domain.registry.pages import (
    LIMIT,
    MOST,
    AuditQuery,
    ModelOrder,
    ModelQuery,
    Paging,
    VersionOrder,
    VersionQuery,
)


class Pages(BaseModel):
    """How much, and from where on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=MOST)] = LIMIT
    cursor: Annotated[str, Field(description="`next_cursor` of the page before, in the same order")] | None = None

    def paging(self, order: str) -> Paging:
        """A minus before the order turns it round."""
        return Paging(limit=self.limit, cursor=self.cursor, descending=order.startswith("-"))


class ModelsAsked(Pages):
    """Models of which all that is given holds."""

    type: ModelType | None = None
    prefix: Annotated[str, Field(description="how the name begins")] = ""
    tag: str | None = None
    owner: str | None = None
    order: Literal["name", "-name", "created_at", "-created_at", "changed_at", "-changed_at"] = "name"

    def query(self) -> ModelQuery:
        return ModelQuery(
            type=self.type,
            prefix=self.prefix,
            tag=self.tag,
            owner=self.owner,
            order=cast(ModelOrder, self.order.removeprefix("-")),
            page=self.paging(self.order),
        )


class VersionsAsked(Pages):
    """Versions of a model of which all that is given holds; by precedence, the highest last, unless told otherwise."""

    state: VersionState | None = None
    provider: str | None = None
    artifact: Annotated[str, Field(description="the sha256 of the whole")] | None = None
    order: Literal["version", "-version", "created_at", "-created_at", "changed_at", "-changed_at"] = "version"

    def query(self, model: str) -> VersionQuery:
        return VersionQuery(
            model=model,
            state=self.state,
            provider=self.provider,
            artifact=self.artifact,
            order=cast(VersionOrder, self.order.removeprefix("-")),
            page=self.paging(self.order),
        )


class AuditAsked(Pages):
    """Entries of which all that is given holds."""

    subject: Annotated[str, Field(description="a model's name, or `name@version`")] | None = None
    actor: str | None = None
    action: str | None = None
    order: Literal["seq", "-seq"] = "seq"

    def query(self) -> AuditQuery:
        return AuditQuery(subject=self.subject, actor=self.actor, action=self.action, page=self.paging(self.order))
