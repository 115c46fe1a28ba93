"""What may be asked of the registered, and how answers come in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from modelmora.domain.models import ModelType
from modelmora.domain.registry.lifecycle import VersionState
from modelmora.domain.registry.texts import check_text
from modelmora.errors import ValidationFailed

T = TypeVar("T")

LIMIT = 50
MOST = 500


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of what was asked for, in order; `next_cursor` is for the next page, None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """How much, from where on, and in which direction. A cursor is good for the order that it was given in."""

    limit: int = LIMIT
    cursor: str | None = None
    descending: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MOST:
            said = f"a page holds 1 to {MOST}"
            raise ValidationFailed(said, field="limit", found=str(self.limit), expected=f"1 to {MOST}")


ModelOrder = Literal["name", "created_at", "changed_at"]
VersionOrder = Literal["version", "created_at", "changed_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """Models of which all that is given holds; `prefix` is how the name begins.

    Raises ValidationFailed, as all queries do, for a text that no entry can hold.
    """

    type: ModelType | None = None
    prefix: str = ""
    tag: str | None = None
    owner: str | None = None
    order: ModelOrder = "name"
    page: Paging = Paging()

    def __post_init__(self) -> None:
        _check_texts(self, "prefix", "tag", "owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionQuery:
    """Versions of one model (its name or id), or of all; `order` by `version` is by precedence and needs a model.

    `declared` as in `ModelVersion`; what was registered by somebody is neither.
    """

    model: str | None = None
    state: VersionState | None = None
    provider: str | None = None
    artifact: str | None = None
    declared: bool | None = None
    order: VersionOrder = "created_at"
    page: Paging = Paging()

    def __post_init__(self) -> None:
        _check_texts(self, "model", "provider", "artifact")
        if self.order == "version" and self.model is None:
            raise ValidationFailed("versions of several models have no order", field="order", found="version")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Entries about a subject (a model's name, or `name@version`), by an actor, of an action; in their order.

    With `after`, only those that follow the entry of that number: who has seen that one asks for what is new.
    """

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    after: int | None = None
    page: Paging = Paging()

    def __post_init__(self) -> None:
        _check_texts(self, "subject", "actor", "action")
        if self.after is not None and not 0 <= self.after < 2**63:
            raise ValidationFailed("no entry's number", field="after", found=str(self.after)[:80], expected="0 or more")


def _check_texts(query: object, *names: str) -> None:
    for name in names:
        if (text := getattr(query, name)) is not None:
            check_text(text, field=name)
