"""Alembic's entry: runs netscript's migrations on the connection it is given."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

import netscript_triggers.store.schema  # noqa: F401 - adds the inbox to the metadata
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import VERSION_TABLE, metadata


def run(connection: Connection) -> None:
    """Run the migrations in the caller's transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=False,
        transaction_per_migration=False,
    )
    context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:  # plain `alembic upgrade head` from a checkout
    store = Store(os.environ.get("NETSCRIPT_DATABASE_URL", "sqlite:///netscript.db"))
    with store.begin() as own:
        run(own)
