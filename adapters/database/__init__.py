"""All SQL: the engine, the tables, their history, and the ports that stand on them."""

from adapters.database.database import Database

__all__ = ["Database"]
