"""What is registered: models, versions, their files and lineage, the audit of every change, requests by their keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REFUSED = "the audit is append-only"


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.Text, server_default="default", nullable=False)


def _counted() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.Column("row", sa.BigInteger, nullable=False, comment="counts the changes"),
    )


def upgrade() -> None:
    """Creates the tables, and what keeps the audit as it is."""
    _create_models()
    _create_versions()
    _create_files()
    _create_audit()
    _create_idempotency()


def downgrade() -> None:
    """Drops them, with all that was registered."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_append_only ON audit")
        op.execute("DROP FUNCTION modelmora_refuse_change()")
    for table in (
        "idempotency",
        "audit_heads",
        "audit",
        "holds",
        "tombstones",
        "version_files",
        "lineage",
        "versions",
        "model_tags",
        "models",
    ):
        op.drop_table(table)


def _create_models() -> None:
    op.create_table(
        "models",
        _tenant(),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", SORTED, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("current", sa.Text, nullable=True, comment="the version that the bare name stands for"),
        sa.Column("chosen", sa.Boolean, nullable=False, comment="by somebody: what is declared does not move it"),
        *_counted(),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_models"),
        sa.UniqueConstraint("tenant", "name", name="uq_models_tenant_name"),
    )
    op.create_index("ix_models_created", "models", ["tenant", "created_at", "id"])
    op.create_index("ix_models_changed", "models", ["tenant", "changed_at", "id"])
    op.create_table(
        "model_tags",
        _tenant(),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("tag", SORTED, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model_id", "tag", name="pk_model_tags"),
        sa.ForeignKeyConstraint(
            ["tenant", "model_id"], ["models.tenant", "models.id"], name="fk_model_tags_model", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_model_tags_tag", "model_tags", ["tenant", "tag", "model_id"])


def _create_versions() -> None:
    op.create_table(
        "versions",
        _tenant(),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", SORTED, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("rank", SORTED, nullable=False, comment="sorts as semantic versions do"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("artifact", sa.Text, nullable=True, comment="its sha256; NULL: it is not in the object store"),
        sa.Column("declared", sa.Boolean, nullable=True, comment="NULL: registered by somebody"),
        sa.Column("content", sa.Text, nullable=False, comment="the whole of it as JSON"),
        *_counted(),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_versions"),
        sa.UniqueConstraint("tenant", "model", "version", name="uq_versions_tenant_model_version"),
        sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_model"),
    )
    op.create_index("ix_versions_rank", "versions", ["tenant", "model", "rank"])
    op.create_index("ix_versions_created", "versions", ["tenant", "created_at", "id"])
    op.create_index("ix_versions_changed", "versions", ["tenant", "changed_at", "id"])
    op.create_index("ix_versions_artifact", "versions", ["tenant", "artifact"])
    few = sa.text("declared IS NOT NULL")
    columns = ["tenant", "declared", "created_at", "id"]
    op.create_index("ix_versions_declared", "versions", columns, sqlite_where=few, postgresql_where=few)
    op.create_table(
        "lineage",
        _tenant(),
        sa.Column("child", sa.Text, nullable=False, comment="name@version"),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("parent", sa.Text, nullable=False, comment="name@version, or a data set; it need not be registered"),
        sa.PrimaryKeyConstraint("tenant", "child", "kind", "parent", name="pk_lineage"),
    )
    op.create_index("ix_lineage_parent", "lineage", ["tenant", "kind", "parent"])


def _create_files() -> None:
    op.create_table(
        "version_files",
        _tenant(),
        sa.Column("version_id", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "version_id", "sha256", name="pk_version_files"),
        sa.ForeignKeyConstraint(
            ["tenant", "version_id"],
            ["versions.tenant", "versions.id"],
            name="fk_version_files_version",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_version_files_sha256", "version_files", ["sha256"])
    op.create_table(
        "tombstones",
        _tenant(),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False, comment="what alone may come back under that number"),
        sa.Column("removed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", name="pk_tombstones"),
    )
    op.create_table(
        "holds",
        _tenant(),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False, comment="begins with !: it is condemned"),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "sha256", "holder", name="pk_holds"),
    )
    op.create_index("ix_holds_sha256", "holds", ["sha256"])
    op.create_index("ix_holds_holder", "holds", ["tenant", "holder"])


def _create_idempotency() -> None:
    op.create_table(
        "idempotency",
        _tenant(),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False, comment="of the request's body"),
        sa.Column("holder", sa.Text, nullable=False, comment="who answers it"),
        sa.Column("expires_at", MOMENT, nullable=False, comment="then, unless it was answered, another may"),
        sa.Column("status", sa.BigInteger, nullable=True),
        sa.Column("response", sa.Text, nullable=True, comment="JSON"),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_created", "idempotency", ["tenant", "created_at"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        _tenant(),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("at", MOMENT, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "action", "subject", "request_id", "reason")),
        *(sa.Column(name, sa.Text, nullable=True, comment="JSON") for name in ("before", "after")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("previous", "digest")),
        sa.PrimaryKeyConstraint("tenant", "seq", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["tenant", "subject", "seq"])
    op.create_table(
        "audit_heads",
        _tenant(),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_audit_heads"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION modelmora_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{REFUSED}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION modelmora_refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{change.lower()} BEFORE {change} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        )
