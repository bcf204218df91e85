"""Migrations: bringing a database to the schema that this version needs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from netscript_workers.errors import SchemaOutdatedError, StoreUnavailableError
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import VERSION_TABLE

_HINT = "Run: netscript db upgrade"
_REACHING = "See that it runs and may be reached, and that NETSCRIPT_DATABASE_URL is right."


def scripts() -> Path:
    """Return the folder of migrations: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def head() -> str:
    """Return the revision that this version needs."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    """Return all there are, which their files are named for: `0001_outbox.py`."""
    files = (scripts() / "versions").glob("[0-9]*_*.py")
    return sorted(path.name.partition("_")[0] for path in files)


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
            f"The database {store.url} can't be reached: {_reason(error)}", hint=_REACHING
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
    if has not in _revisions():
        raise _newer(store, has)
    raise SchemaOutdatedError(
        f"The database {store.url} is at revision {has}; this version needs {head()}.", hint=_HINT
    )


def _newer(store: Store, has: str) -> SchemaOutdatedError:
    return SchemaOutdatedError(
        f"The database {store.url} was made by a newer netscript (revision {has}).",
        hint="Upgrade netscript on this machine.",
    )


def upgrade(url: str) -> None:
    """Bring the database to the newest revision; safe to run from two processes at once.

    Raises:
        SchemaOutdatedError: A newer version has made it.
        StoreUnavailableError: The database can't be reached.
    """
    # Whoever only looks at the revision does without: it is 9 MiB in every process.
    from alembic import command  # noqa: PLC0415 - said above
    from alembic.config import Config  # noqa: PLC0415 - said above

    store = Store(url, pool_size=1, bounded=False)
    try:
        with store.engine.connect() as conn, conn.begin():
            if not store.is_sqlite:
                # Whoever comes second waits here, then finds nothing left to do. SQLite has
                # begun IMMEDIATE, which does the same.
                conn.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended('netscript:migrate', 0))"
                )
            has = _revision(conn)
            if has is not None and has not in _revisions():
                raise _newer(store, has)
            if has != head():
                config = Config()
                config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
                config.attributes["connection"] = conn
                command.upgrade(config, "head")
    except DBAPIError as error:
        raise StoreUnavailableError(
            f"The database {store.url} could not be migrated: {_reason(error)}", hint=_REACHING
        ) from error
    finally:
        store.dispose()


def _revision(conn: Connection) -> str | None:
    if not inspect(conn).has_table(VERSION_TABLE):
        return None
    found: str | None = conn.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


def _reason(error: DBAPIError) -> str:
    told = str(error.orig).strip().splitlines()
    return f"{told[0].removesuffix('.')}." if told else f"{type(error.orig).__name__}."
