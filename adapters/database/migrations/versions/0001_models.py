"""Wanted models, their measured sizes, and leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the three tables."""
    op.create_table(
        "desired_models",
        sa.Column("tenant", sa.Text, server_default="default", nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "version", name="pk_desired_models"),
        sa.CheckConstraint("wanted IN ('loaded', 'unloaded')", name="ck_desired_models_wanted"),
    )
    op.create_table(
        "footprints",
        sa.Column("tenant", sa.Text, server_default="default", nullable=False),
        sa.Column("model", sa.Text, nullable=False, comment="name@version"),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("precision", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("measured_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "device", "precision", name="pk_footprints"),
        sa.CheckConstraint("bytes >= 0", name="ck_footprints_bytes"),
    )
    op.create_table(
        "leases",
        sa.Column("tenant", sa.Text, server_default="default", nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=True, comment="NULL: given back"),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_leases"),
    )


def downgrade() -> None:
    """Drops them."""
    for table in ("leases", "footprints", "desired_models"):
        op.drop_table(table)
