"""Migrations: bringing a database to the schema that this version needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from netscript_workers.errors import SchemaOutdatedError, StoreUnavailableError
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import VERSION_TABLE

_HINT = "Run: netscript db upgrade"


def scripts() -> Path:
    """Return the folder of migrations: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def head() -> str:
    """Return the revision that this version needs."""
    revision = ScriptDirectory(str(scripts())).get_current_head()
    assert revision is not None
    return revision


def current(store: Store) -> str | None:
    """Return the revision that the database has; None before the first migration.

    Raises:
        StoreUnavailableError: The database can't be reached.
    """
    try:
        with store.read() as conn:
            return _revision(conn)
    except DBAPIError as error:
        raise StoreUnavailableError(
            f"The database {store.url} can't be reached.", hint=_reason(error)
        ) from error


def check(store: Store) -> None:
    """Refuse a database that has not the schema of this version.

    Raises:
        SchemaOutdatedError: It has another one, or none.
        StoreUnavailableError: The database can't be reached.
    """
    has = current(store)
    if has == head():
        return
    if has is None:
        raise SchemaOutdatedError(f"The database {store.url} has no netscript tables.", hint=_HINT)
    if has not in {script.revision for script in ScriptDirectory(str(scripts())).walk_revisions()}:
        raise SchemaOutdatedError(
            f"The database {store.url} was made by a newer netscript (revision {has}).",
            hint="Upgrade netscript on this machine.",
        )
    raise SchemaOutdatedError(
        f"The database {store.url} is at revision {has}; this version needs {head()}.", hint=_HINT
    )


def upgrade(url: str) -> None:
    """Bring the database to the newest revision; safe to run from two processes at once.

    Raises:
        StoreUnavailableError: The database can't be reached.
    """
    store = Store(url, pool_size=1, bounded=False)
    try:
        with store.engine.connect() as conn, conn.begin():
            if not store.is_sqlite:
                # Whoever comes second waits here, then finds nothing left to do. SQLite has
                # begun IMMEDIATE, which does the same.
                conn.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended('netscript:migrate', 0))"
                )
            if _revision(conn) != head():
                config = Config()
                config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
                config.attributes["connection"] = conn
                command.upgrade(config, "head")
    except DBAPIError as error:
        raise StoreUnavailableError(
            f"The database {store.url} could not be migrated.", hint=_reason(error)
        ) from error
    finally:
        store.dispose()


def _revision(conn: Connection) -> str | None:
    context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else ""
