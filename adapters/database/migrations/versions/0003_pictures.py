"""Kept pictures: records, their ways into indexes, events that wait and were seen, dead letters, indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
STATES = "'received', 'working', 'indexed', 'retry_wait', 'rejected', 'dead', 'superseded', 'tombstoned'"
PAIRS = "JSON: pairs of a name and base64"


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.Text, server_default="default", nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def upgrade() -> None:
    """Creates the tables."""
    _create_pictures()
    _create_ways()
    _create_events()
    _create_indexes()


def downgrade() -> None:
    """Drops them, with all that was kept of pictures."""
    for table in ("indexes", "dead_letters", "inbox", "outbox", "ways", "picture_tags", "pictures"):
        op.drop_table(table)


def _create_pictures() -> None:
    op.create_table(
        "pictures",
        _tenant(),
        sa.Column("id", SORTED, nullable=False),
        sa.Column("collection", sa.Text, server_default="default", nullable=False),
        _text("sha256"),
        sa.Column("object", sa.Text, nullable=False, comment="s3://bucket/key or file:///path"),
        _text("content_type"),
        _number("bytes"),
        _number("width"),
        _number("height"),
        sa.Column("facts", sa.Text, nullable=False, comment="JSON: filename, tags, metadata"),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="grows with every change"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("deleted_at", MOMENT, nullable=True, comment="a tombstone: what comes late does not bring it back"),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_pictures"),
    )
    there = sa.text("deleted_at IS NULL")
    content = ["tenant", "collection", "sha256"]
    op.create_index("uq_pictures_content", "pictures", content, unique=True, sqlite_where=there, postgresql_where=there)
    op.create_index("ix_pictures_created", "pictures", ["tenant", "created_at", "id"])
    op.create_index("ix_pictures_expires", "pictures", ["tenant", "expires_at"])
    op.create_index("ix_pictures_sha256", "pictures", ["sha256"])
    op.create_table(
        "picture_tags",
        _tenant(),
        sa.Column("picture_id", SORTED, nullable=False),
        sa.Column("tag", SORTED, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "picture_id", "tag", name="pk_picture_tags"),
        _of_a_picture("fk_picture_tags_picture"),
    )
    op.create_index("ix_picture_tags_tag", "picture_tags", ["tenant", "tag", "picture_id"])


def _of_a_picture(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant", "picture_id"], ["pictures.tenant", "pictures.id"], name=name, ondelete="CASCADE"
    )


def _create_ways() -> None:
    op.create_table(
        "ways",
        _tenant(),
        sa.Column("picture_id", SORTED, nullable=False),
        sa.Column("space", SORTED, nullable=False, comment="name@version"),
        _text("state"),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="the picture's when it began"),
        _number("attempts"),
        sa.Column("next_attempt_at", MOMENT, nullable=True),
        _text("stage"),
        _text("code"),
        _text("detail"),
        sa.Column("first_failed_at", MOMENT, nullable=True),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "picture_id", "space", name="pk_ways"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_ways_state"),
        _of_a_picture("fk_ways_picture"),
    )
    op.create_index("ix_ways_due", "ways", ["tenant", "state", "next_attempt_at"])
    op.create_index("ix_ways_changed", "ways", ["tenant", "state", "changed_at", "picture_id"])
    op.create_index("ix_ways_picture", "ways", ["tenant", "picture_id", "state"])


def _create_events() -> None:
    op.create_table(
        "outbox",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        _tenant(),
        _text("topic"),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("lane", sa.BigInteger, nullable=False, comment="a digest of topic and key, which may be long"),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment=PAIRS),
        sa.Column("picture_id", SORTED, nullable=True),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_lane", "outbox", ["lane", "number"])
    op.create_index("ix_outbox_picture", "outbox", ["tenant", "picture_id"])
    op.create_table(
        "inbox",
        _tenant(),
        _text("source"),
        _text("event_id"),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "source", "event_id", name="pk_inbox"),
    )
    op.create_index("ix_inbox_seen", "inbox", ["seen_at"])
    op.create_table(
        "dead_letters",
        _tenant(),
        sa.Column("id", SORTED, nullable=False),
        _text("topic"),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment=PAIRS),
        sa.Column("picture_id", SORTED, nullable=False),
        sa.Column("space", SORTED, nullable=False),
        _text("code"),
        _text("detail"),
        _text("stage"),
        _number("attempts"),
        sa.Column("first_failed_at", MOMENT, nullable=False),
        sa.Column("failed_at", MOMENT, nullable=False),
        sa.Column("replayed_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_dead_letters"),
    )
    op.create_index("ix_dead_letters_failed", "dead_letters", ["tenant", "failed_at", "id"])
    op.create_index("ix_dead_letters_picture", "dead_letters", ["tenant", "picture_id"])


def _create_indexes() -> None:
    op.create_table(
        "indexes",
        _tenant(),
        _text("collection"),
        _text("model"),
        _text("version"),
        _text("state"),
        _number("dimension"),
        sa.Column("settings", sa.Text, nullable=False, comment="JSON"),
        _number("total"),
        _number("done"),
        _number("failed"),
        sa.Column("cursor", sa.Text, nullable=True, comment="the last picture that a re-index has been through"),
        sa.Column("agreement", sa.Float, nullable=True),
        _text("why"),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "collection", "model", "version", name="pk_indexes"),
    )
    live = sa.text("state = 'live'")
    of_model = ["tenant", "collection", "model"]
    op.create_index("uq_indexes_live", "indexes", of_model, unique=True, sqlite_where=live, postgresql_where=live)
