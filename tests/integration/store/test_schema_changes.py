"""Migrations as others meet them: at once, twice, by hand, beside the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, inspect, make_url

from netscript_workers import include_name
from netscript_workers.errors import SchemaOutdatedError
from netscript_workers.store import migrations, schema
from netscript_workers.store.engine import Store
from tests.kit import new, put, rows, run, scalar
from tests.support import ROOT

pytestmark = pytest.mark.fresh_database


def test_four_threads_may_migrate_at_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrations.upgrade, [empty_database_url] * 4))
    store = Store(empty_database_url)
    migrations.check(store)
    assert scalar(store, f"SELECT count(*) FROM {schema.VERSION_TABLE}") == 1
    store.dispose()


def test_migrating_again_changes_nothing_and_loses_nothing(store: Store, database_url: str) -> None:
    put(store, new())
    migrations.upgrade(database_url)
    assert scalar(store, "SELECT count(*) FROM netscript_executions") == 1
    assert migrations.current(store) == migrations.head()


def test_there_is_one_line_of_revisions() -> None:
    script = ScriptDirectory(str(migrations.scripts()))
    assert script.get_heads() == [migrations.head()]
    assert len(script.get_bases()) == 1


def test_an_older_database_is_told_of_the_command_that_helps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = migrations.head()
    monkeypatch.setattr(migrations, "head", lambda: "next")  # there is but one revision yet
    with pytest.raises(SchemaOutdatedError, match=f"is at revision {has}; this version needs next"):
        migrations.check(store)


def test_no_sentence_tells_the_password(postgres_free_url: str) -> None:
    store = Store(postgres_free_url)
    with pytest.raises(Exception, match="can't be reached") as told:
        migrations.check(store)
    assert "geheim" not in f"{told.value} {getattr(told.value, 'hint', '')}"
    store.dispose()


@pytest.fixture
def postgres_free_url() -> str:
    return "postgresql://u:geheim@127.0.0.1:1/none"


def test_a_broken_migration_leaves_no_half(empty_database_url: str) -> None:
    store = Store(empty_database_url)
    # A table of the user's own stands in the way of one of ours.
    run(store, "CREATE TABLE netscript_workers (id INTEGER)")
    with pytest.raises(Exception, match="could not be migrated"):
        migrations.upgrade(empty_database_url)
    assert inspect(store.engine).get_table_names() == ["netscript_workers"]
    run(store, "DROP TABLE netscript_workers")
    migrations.upgrade(empty_database_url)
    migrations.check(store)
    store.dispose()


def test_plain_alembic_in_a_checkout_does_the_same(empty_database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "NETSCRIPT_DATABASE_URL": empty_database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    store = Store(empty_database_url)
    migrations.check(store)
    store.dispose()


@pytest.mark.postgres
def test_hot_tables_leave_room_for_updates_in_place(postgres_url: str) -> None:
    store = Store(postgres_url)
    found = rows(
        store,
        "SELECT relname, array_to_string(reloptions, ',') FROM pg_class "
        "WHERE relkind = 'r' AND reloptions IS NOT NULL",
    )
    hot = {name for name, options in found if "fillfactor" in options}
    assert {"netscript_executions", "netscript_workers", "netscript_concurrency_slots"} <= hot
    store.dispose()


@pytest.mark.postgres
def test_keys_are_sorted_by_bytes_whatever_the_databases_language(postgres_url: str) -> None:
    store = Store(postgres_url)
    found = rows(
        store,
        "SELECT column_name FROM information_schema.columns WHERE collation_name = 'C' "
        "AND table_name = 'netscript_executions'",
    )
    names = {name for (name,) in found}
    assert {"job_id", "topic", "status", "concurrency_key"} <= names
    store.dispose()


own = MetaData()
Table("orders", own, Column("id", Integer, primary_key=True))


@pytest.fixture
def users_engine(database_url: str) -> Iterator[Engine]:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    own.create_all(engine)
    yield engine
    engine.dispose()


def differences(engine: Engine, **options: object) -> list[str]:
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={**options})
        return [str(difference) for difference in compare_metadata(context, own)]


def test_a_users_autogenerate_leaves_ours_alone(users_engine: Engine) -> None:
    assert differences(users_engine, include_name=include_name) == []
    assert differences(users_engine) != []  # without it, Alembic would drop our tables


def test_a_users_autogenerate_still_sees_the_users_own(users_engine: Engine) -> None:
    with users_engine.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE orders ADD COLUMN paid INTEGER")
        conn.exec_driver_sql("CREATE TABLE netscripts (id INTEGER)")
    told = " ".join(differences(users_engine, include_name=include_name))
    assert "paid" in told
    assert "'netscripts'" in told  # the prefix has its underscore


def test_the_scripts_are_found_beside_the_package() -> None:
    found = migrations.scripts()
    assert (found / "env.py").is_file()
    assert found.parent in {ROOT, Path(migrations.__file__).parents[1]}
