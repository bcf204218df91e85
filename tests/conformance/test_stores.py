"""The databases that netscript knows, each held to the same promises."""

from __future__ import annotations

import pytest

from tests.conformance.suite import StoreSuite


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def database_url(self, sqlite_url: str) -> str:
        return sqlite_url


@pytest.mark.postgres
class TestPostgresStore(StoreSuite):
    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url
