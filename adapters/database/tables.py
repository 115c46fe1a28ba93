"""The tables as they are now; `migrations/` tells how they came to be."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


class Utc(TypeDecorator[datetime]):
    """A moment; SQLite, which knows no time zones, keeps it in UTC and sorts it as text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


SORTED = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that sorts byte by byte on every database, whatever language a server is set up for."""


def _tenant() -> Column[str]:
    """Whose row it is; part of each key from the first migration on, so that no later one has to split rows."""
    return Column("tenant", Text, primary_key=True, server_default="default")


desired_models = Table(
    "desired_models",
    metadata,
    _tenant(),
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("wanted", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("changed_at", Utc, nullable=False),
    CheckConstraint("wanted IN ('loaded', 'unloaded')", name="wanted"),
)

footprints = Table(
    "footprints",
    metadata,
    _tenant(),
    Column("model", Text, primary_key=True, comment="name@version"),
    Column("device", Text, primary_key=True),
    Column("precision", Text, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("measured_at", Utc, nullable=False),
    CheckConstraint("bytes >= 0", name="bytes"),
)

leases = Table(
    "leases",
    metadata,
    _tenant(),
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=True, comment="NULL: given back"),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", Utc, nullable=False),
)

models = Table(
    "models",
    metadata,
    _tenant(),
    Column("id", Text, primary_key=True),
    Column("name", SORTED, nullable=False),
    Column("type", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("current", Text, nullable=True, comment="the version that the bare name stands for"),
    Column("chosen", Boolean, nullable=False, comment="by somebody: what is declared does not move it"),
    Column("created_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Column("row", BigInteger, nullable=False, comment="counts the changes"),
    UniqueConstraint("tenant", "name"),
    Index("ix_models_created", "tenant", "created_at", "id"),
    Index("ix_models_changed", "tenant", "changed_at", "id"),
)

model_tags = Table(
    "model_tags",
    metadata,
    _tenant(),
    Column("model_id", Text, primary_key=True),
    Column("tag", SORTED, primary_key=True),
    ForeignKeyConstraint(
        ["tenant", "model_id"], ["models.tenant", "models.id"], name="fk_model_tags_model", ondelete="CASCADE"
    ),
    Index("ix_model_tags_tag", "tenant", "tag", "model_id"),
)

versions = Table(
    "versions",
    metadata,
    _tenant(),
    Column("id", Text, primary_key=True),
    Column("model", SORTED, nullable=False),
    Column("version", Text, nullable=False),
    Column("rank", SORTED, nullable=False, comment="sorts as semantic versions do"),
    Column("state", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("artifact", Text, nullable=True, comment="its sha256; NULL: it is not in the object store"),
    Column("declared", Boolean, nullable=True, comment="NULL: registered by somebody"),
    Column("content", Text, nullable=False, comment="the whole of it as JSON"),
    Column("created_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Column("row", BigInteger, nullable=False, comment="counts the changes"),
    UniqueConstraint("tenant", "model", "version"),
    ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_model"),
    Index("ix_versions_rank", "tenant", "model", "rank"),
    Index("ix_versions_created", "tenant", "created_at", "id"),
    Index("ix_versions_changed", "tenant", "changed_at", "id"),
    Index("ix_versions_artifact", "tenant", "artifact"),
    Index(
        "ix_versions_declared",
        "tenant",
        "declared",
        "created_at",
        "id",
        sqlite_where=text("declared IS NOT NULL"),
        postgresql_where=text("declared IS NOT NULL"),
    ),
)

version_files = Table(
    "version_files",
    metadata,
    _tenant(),
    Column("version_id", Text, primary_key=True),
    Column("sha256", Text, primary_key=True),
    ForeignKeyConstraint(
        ["tenant", "version_id"],
        ["versions.tenant", "versions.id"],
        name="fk_version_files_version",
        ondelete="CASCADE",
    ),
    Index("ix_version_files_sha256", "sha256"),
)
"""What refers to an object: an artifact's files, and the list of them. Objects are shared by all tenants."""

tombstones = Table(
    "tombstones",
    metadata,
    _tenant(),
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("source", Text, nullable=False, comment="what alone may come back under that number"),
    Column("removed_at", Utc, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    _tenant(),
    Column("sha256", Text, primary_key=True),
    Column("holder", Text, primary_key=True, comment="begins with !: it is condemned"),
    Column("expires_at", Utc, nullable=False),
    Index("ix_holds_sha256", "sha256"),
    Index("ix_holds_holder", "tenant", "holder"),
)
"""Objects that must stay though nothing refers to them yet, and those that are being removed; shared by all tenants."""

idempotency = Table(
    "idempotency",
    metadata,
    _tenant(),
    Column("key", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("digest", Text, nullable=False, comment="of the request's body"),
    Column("holder", Text, nullable=False, comment="who answers it"),
    Column("expires_at", Utc, nullable=False, comment="then, unless it was answered, another may"),
    Column("status", BigInteger, nullable=True),
    Column("response", Text, nullable=True, comment="JSON"),
    Column("done", Boolean, nullable=False),
    Column("created_at", Utc, nullable=False),
    Index("ix_idempotency_created", "tenant", "created_at"),
)

lineage = Table(
    "lineage",
    metadata,
    _tenant(),
    Column("child", Text, primary_key=True, comment="name@version"),
    Column("kind", Text, primary_key=True),
    Column("parent", Text, primary_key=True, comment="name@version, or a data set; it need not be registered"),
    Index("ix_lineage_parent", "tenant", "kind", "parent"),
)

audit = Table(
    "audit",
    metadata,
    _tenant(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Utc, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("before", Text, nullable=True, comment="JSON"),
    Column("after", Text, nullable=True, comment="JSON"),
    Column("previous", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Index("ix_audit_subject", "tenant", "subject", "seq"),
)
"""Append-only: triggers of the migration refuse to change or delete its rows."""

audit_heads = Table(
    "audit_heads",
    metadata,
    _tenant(),
    Column("seq", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
)
"""The last entry of each chain: who appends locks it, and entries cut off the end show."""
