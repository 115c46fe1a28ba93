"""The tables of kept pictures: records, ways, events that wait, events that were seen, dead letters, indexes."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)

from adapters.database.tables import SORTED, Utc, metadata

_NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up integers alone."""


def _tenant() -> Column[str]:
    return Column("tenant", Text, primary_key=True, server_default="default")


pictures = Table(
    "pictures",
    metadata,
    _tenant(),
    Column("id", SORTED, primary_key=True),
    Column("collection", Text, nullable=False, server_default="default"),
    Column("sha256", Text, nullable=False),
    Column("object", Text, nullable=False, comment="s3://bucket/key or file:///path"),
    Column("content_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("width", BigInteger, nullable=False),
    Column("height", BigInteger, nullable=False),
    Column("facts", Text, nullable=False, comment="JSON: filename, tags, metadata"),
    Column("seq", BigInteger, nullable=False, comment="grows with every change"),
    Column("created_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Column("expires_at", Utc, nullable=True),
    Column("deleted_at", Utc, nullable=True, comment="a tombstone: what comes late does not bring it back"),
    Index(
        "uq_pictures_content",
        "tenant",
        "collection",
        "sha256",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    Index("ix_pictures_created", "tenant", "created_at", "id"),
    Index("ix_pictures_expires", "tenant", "expires_at"),
    Index("ix_pictures_sha256", "sha256"),
)

picture_tags = Table(
    "picture_tags",
    metadata,
    _tenant(),
    Column("picture_id", SORTED, primary_key=True),
    Column("tag", SORTED, primary_key=True),
    ForeignKeyConstraint(
        ["tenant", "picture_id"], ["pictures.tenant", "pictures.id"], name="fk_picture_tags_picture", ondelete="CASCADE"
    ),
    Index("ix_picture_tags_tag", "tenant", "tag", "picture_id"),
)

ways = Table(
    "ways",
    metadata,
    _tenant(),
    Column("picture_id", SORTED, primary_key=True),
    Column("space", SORTED, primary_key=True, comment="name@version"),
    Column("state", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="the picture's when it began"),
    Column("attempts", BigInteger, nullable=False),
    Column("next_attempt_at", Utc, nullable=True),
    Column("stage", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("first_failed_at", Utc, nullable=True),
    Column("changed_at", Utc, nullable=False),
    CheckConstraint(
        "state IN ('received', 'working', 'indexed', 'retry_wait', 'rejected', 'dead', 'superseded', 'tombstoned')",
        name="state",
    ),
    ForeignKeyConstraint(
        ["tenant", "picture_id"], ["pictures.tenant", "pictures.id"], name="fk_ways_picture", ondelete="CASCADE"
    ),
    Index("ix_ways_due", "tenant", "state", "next_attempt_at"),
    Index("ix_ways_changed", "tenant", "state", "changed_at", "picture_id"),
    Index("ix_ways_picture", "tenant", "picture_id", "state"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False, server_default="default"),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("lane", BigInteger, nullable=False, comment="a digest of topic and key, which may be long"),
    Column("value", LargeBinary, nullable=False),
    Column("headers", Text, nullable=False, comment="JSON: pairs of a name and base64"),
    Column("picture_id", SORTED, nullable=True),
    Column("not_before", Utc, nullable=False),
    Index("ix_outbox_lane", "lane", "number"),
    Index("ix_outbox_picture", "tenant", "picture_id"),
    sqlite_autoincrement=True,
)
"""Rows go when they are carried; the order of numbers is that of the transactions of one key. No number comes twice:
who carried one removes it, however late."""

inbox = Table(
    "inbox",
    metadata,
    _tenant(),
    Column("source", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("seen_at", Utc, nullable=False),
    Index("ix_inbox_seen", "seen_at"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _tenant(),
    Column("id", SORTED, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("headers", Text, nullable=False, comment="JSON: pairs of a name and base64"),
    Column("picture_id", SORTED, nullable=False),
    Column("space", SORTED, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("first_failed_at", Utc, nullable=False),
    Column("failed_at", Utc, nullable=False),
    Column("replayed_at", Utc, nullable=True),
    Index("ix_dead_letters_failed", "tenant", "failed_at", "id"),
    Index("ix_dead_letters_picture", "tenant", "picture_id"),
)

indexes = Table(
    "indexes",
    metadata,
    _tenant(),
    Column("collection", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("dimension", BigInteger, nullable=False),
    Column("settings", Text, nullable=False, comment="JSON"),
    Column("total", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cursor", Text, nullable=True, comment="the last picture that a re-index has been through"),
    Column("agreement", Float, nullable=True),
    Column("why", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("changed_at", Utc, nullable=False),
    Index(
        "uq_indexes_live",
        "tenant",
        "collection",
        "model",
        unique=True,
        sqlite_where=text("state = 'live'"),
        postgresql_where=text("state = 'live'"),
    ),
)
