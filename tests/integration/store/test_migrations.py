"""The schema: both ways, from two processes at once, and as the metadata says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Table, inspect

import netscript_triggers.store.schema as inbox_schema
from netscript_workers import include_name
from netscript_workers.errors import SchemaOutdatedError, StoreUnavailableError
from netscript_workers.store import migrations, schema
from netscript_workers.store.engine import Store
from tests.kit import run

pytestmark = pytest.mark.fresh_database


def test_the_migrations_make_what_the_metadata_says(store: Store) -> None:
    assert inbox_schema.trigger_events.name in schema.metadata.tables

    def ours(obj: Any, name: str | None, *_: Any) -> bool:
        # SQLite has no sequences; the table that stands in for one is in no metadata.
        return not (isinstance(obj, Table) and name == schema.CLAIM_TOKEN)

    with store.engine.connect() as conn:
        options = {"version_table": schema.VERSION_TABLE, "include_object": ours}
        context = MigrationContext.configure(conn, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_every_name_begins_with_our_prefix(store: Store) -> None:
    found = inspect(store.engine)
    names = found.get_table_names()
    names += [str(i["name"]) for table in names for i in found.get_indexes(table)]
    if not store.is_sqlite:
        names += found.get_sequence_names()
    assert names
    assert all(name.startswith("netscript_") for name in names), names


def test_include_name_leaves_ours_out_of_a_users_migrations() -> None:
    assert not include_name("netscript_executions", "table", {})
    assert not include_name("netscript_history_job", "index", {})
    assert include_name("orders", "table", {})
    assert include_name(None, "schema", {})


def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
    code = (
        "import sys; from netscript_workers.store.migrations import upgrade; upgrade(sys.argv[1])"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, empty_database_url], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    store = Store(empty_database_url)
    migrations.check(store)
    store.dispose()


def test_down_and_up_again(store: Store, database_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.scripts()))
    with store.begin() as conn:
        config.attributes["connection"] = conn
        command.downgrade(config, "base")
    with pytest.raises(SchemaOutdatedError, match="no netscript tables"):
        migrations.check(store)
    left = inspect(store.engine).get_table_names()
    assert left == ["netscript_alembic_version"]
    migrations.upgrade(database_url)
    migrations.check(store)


def test_a_database_of_a_newer_version_is_refused(store: Store) -> None:
    run(store, "UPDATE netscript_alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdatedError, match=r"newer netscript \(revision 9999\)"):
        migrations.check(store)


def test_an_empty_database_is_refused_with_the_command_that_helps(empty_database_url: str) -> None:
    store = Store(empty_database_url)
    try:
        assert migrations.current(store) is None
        with pytest.raises(SchemaOutdatedError, match="Run: netscript db upgrade"):
            migrations.check(store)
    finally:
        store.dispose()


def test_a_database_that_cannot_be_reached_is_a_sentence() -> None:
    url = "postgresql://nobody:geheim@127.0.0.1:1/none"
    store = Store(url)
    with pytest.raises(StoreUnavailableError) as told:
        migrations.check(store)
    with pytest.raises(StoreUnavailableError) as also:
        migrations.upgrade(url)
    store.dispose()
    assert "geheim" not in str(told.value) + str(also.value)
