"""Fixtures: servers, databases, stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from netscript_workers.store import migrations
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import VERSION_TABLE
from netscript_workers.testing import ManualClock
from tests import servers
from tests.proxy import Proxy, proxy_of
from tests.servers import Servers, new_database
from tests.shelf import Shelf

for _name in list(os.environ):
    if _name.startswith(("NETSCRIPT_", "WORKERS_")) and not _name.startswith("NETSCRIPT_TEST_"):
        del os.environ[_name]

_SERVERS = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Find the servers once; what is started here is inherited by the processes of xdist."""
    controller = not hasattr(config, "workerinput")
    try:
        needed = servers.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    found = servers.find(may_start=controller)
    config.stash[_SERVERS] = found
    if lacking := needed - found.urls.keys():
        told = "; ".join(f"{name}: {found.missing[name]}" for name in sorted(lacking))
        _stop(found)
        raise pytest.UsageError(f"required servers are missing: {told}")
    for name, url in found.urls.items():
        os.environ[servers.variable(name)] = url


def pytest_unconfigure(config: pytest.Config) -> None:
    _stop(config.stash.get(_SERVERS, Servers()))


def _stop(found: Servers) -> None:
    for stop in found.stop:
        stop()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say aloud which servers took part, and which suites were skipped for want of one."""
    if hasattr(config, "workerinput"):
        return
    found = config.stash[_SERVERS]
    terminalreporter.section("servers")
    terminalreporter.line(f"used: {', '.join(sorted(found.urls)) or 'none'}")
    for name, reason in sorted(found.missing.items()):
        terminalreporter.line(f"SKIPPED every {name} test: {reason}", red=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = config.stash[_SERVERS].missing
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "netscript.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres_admin() -> str:
    return os.environ[servers.variable("postgres")]


@pytest.fixture(scope="session")
def postgres_template(postgres_admin: str) -> Iterator[str]:
    with new_database(postgres_admin) as url:
        migrations.upgrade(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="session")
def postgres_shelf(postgres_admin: str, postgres_template: str) -> Iterator[Shelf]:
    with Shelf(postgres_admin, postgres_template, version_table=VERSION_TABLE) as shelf:
        yield shelf


@pytest.fixture
def postgres_url(
    request: pytest.FixtureRequest,
    postgres_admin: str,
    postgres_template: str,
    postgres_shelf: Shelf,
) -> Iterator[str]:
    """A migrated database, which was another test's before unless the test wants a fresh one."""
    if request.node.get_closest_marker("fresh_database") is not None:
        with new_database(postgres_admin, template=postgres_template) as url:
            yield url
        return
    url = postgres_shelf.take()
    yield url
    postgres_shelf.give_back(url)


@pytest.fixture
def postgres_proxy(postgres_url: str) -> Iterator[tuple[Proxy, str]]:
    """A migrated PostgreSQL database behind a proxy that tests cut, and its URL there."""
    with proxy_of(postgres_url) as opened:
        yield opened


@pytest.fixture
def empty_postgres_url(postgres_admin: str) -> Iterator[str]:
    with new_database(postgres_admin) as url:
        yield url


BOTH = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of its own, on each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=BOTH)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = Store(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timed_store(database_url: str, clock: ManualClock) -> Iterator[Store]:
    """A store whose present is the manual clock's."""
    opened = Store(database_url, clock=clock)
    yield opened
    opened.dispose()
