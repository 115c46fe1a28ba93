"""The tables as they are now; `migrations/` tells how they came to be."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Dialect, MetaData, Table, Text, TypeDecorator

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
