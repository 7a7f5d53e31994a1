"""Bring a store up to the schema of this version: a new one by its tables, an older one by the migrations that ship
with it. Both come to the same, as a test sees to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table

from runner import __version__
from runner.errors import BadConfiguration
from runner.store.schema import metadata

if TYPE_CHECKING:
    from runner.store.database import Store

CACHE_KIB = 65_536
"""Memory for a migration: where a table is written anew, its keys come in no order."""

SCHEMA_VERSION = 3
"""`PRAGMA user_version` of a store of this version: the number of its last migration."""

_migrated_to = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Where the migrations note how far they have come, as they make it themselves."""


def migrations_folder() -> Path:
    """Where the migrations are: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "_shipped" / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def refuse_other_version(store: Store) -> None:
    """BadConfiguration if a newer version has written the store, or it needs an upgrade first."""
    found = _version(store)
    if found < SCHEMA_VERSION:
        raise BadConfiguration(
            f"The store {store.path} is of an older version (schema {found}). The next `runner run` upgrades it."
        )


def bring_up_to_date(store: Store) -> None:
    """Make the tables, or apply what migrations are missing. BadConfiguration if a newer version has written the
    store."""
    found = _version(store)
    if not found:
        _create(store)
    elif found < SCHEMA_VERSION:
        store.copy_to(store.path.with_name(f"{store.path.name}.before-{found + 1}"))
        _migrate(store)


def _version(store: Store) -> int:
    with store.read() as connection:
        found = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if found > SCHEMA_VERSION:
        raise BadConfiguration(
            f"The store {store.path} was written by a newer version (schema {found}; runner {__version__} knows "
            f"{SCHEMA_VERSION}). Upgrade runner, or name another store with --store."
        )
    return found


def _create(store: Store) -> None:
    with store.write() as connection:
        if connection.exec_driver_sql("PRAGMA user_version").scalar_one():
            return  # Another process was first.
        metadata.create_all(connection, checkfirst=False)
        _migrated_to.create(connection, checkfirst=False)
        connection.execute(_migrated_to.insert().values(version_num=f"{SCHEMA_VERSION:04}"))
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")


def _migrate(store: Store) -> None:
    # Imported here: alembic costs a third of a second, and only the first start of a new version needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    with store.write() as connection:
        config.attributes["connection"] = connection
        cache = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
        connection.exec_driver_sql(f"PRAGMA cache_size=-{CACHE_KIB}")
        command.upgrade(config, "head")
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.exec_driver_sql(f"PRAGMA cache_size={cache}")
