"""Many processes on one file: nobody runs anything twice, and nobody is locked out."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

from netscript_workers import JobContext, configure_sqlite, enqueue, enqueue_job, job
from netscript_workers.store.engine import Store
from tests.integration.store.crowd import FROM_THE_SERVER
from tests.kit import new, put, scalar
from tests.support import ROOT, clean_environment

BEFORE, FROM_THE_USER, AT_ONCE = 400, 400, 5


@job(id="mail")
async def mail(ctx: JobContext[dict[str, str]]) -> None: ...


@pytest.mark.trap("D-51")
def test_four_workers_a_server_and_a_users_engine_share_a_database(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    put(store, *(new("mail") for _ in range(BEFORE)))
    record = tmp_path / "starts"
    record.touch()
    total = BEFORE + FROM_THE_SERVER + FROM_THE_USER
    program = [sys.executable, "-m", "tests.integration.store.crowd"]
    crowd = subprocess.Popen(
        [*program, database_url, str(total), str(record)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "ready\n"
        enqueue_as_users_do(database_url)
        said, _ = crowd.communicate(timeout=120)
    assert crowd.returncode == 0, said

    starts = Counter(record.read_text().split())
    assert len(starts) == total
    assert set(starts.values()) == {1}
    assert scalar(store, "SELECT count(*) FROM orders") == FROM_THE_USER / AT_ONCE
    done = "SELECT count(*) FROM netscript_execution_history WHERE status = 'completed'"
    assert scalar(store, done) == total


def enqueue_as_users_do(database_url: str) -> None:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        configure_sqlite(engine)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE orders (id INTEGER)"))
        session.commit()
        for n in range(FROM_THE_USER // AT_ONCE):
            # A read that turns to writing, in every transaction.
            session.execute(text("SELECT count(*) FROM orders")).scalar()
            session.execute(text("INSERT INTO orders VALUES (:n)"), {"n": n})
            enqueue(session, *(enqueue_job(mail, {"to": str(n)}) for _ in range(AT_ONCE)))
            session.commit()
    engine.dispose()
