"""A worker killed while its children, and what those have started, live on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from netscript_workers.store.engine import Store
from tests.kit import detail, new, put, rows, scalar
from tests.support import Process, eventually, is_alive, write_project

# The handler holds the interpreter's lock, so that its process hears nothing; what it starts
# ignores SIGTERM. Each start tells who of an earlier attempt is still alive.
JOBS = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from netscript_workers import JobContext, job

RECORD, HOLD = Path(os.environ["TEST_RECORD"]), Path(os.environ["TEST_HOLD"])
DEAF = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    file.write(f"grandchild {os.getpid()} {sys.argv[2]} {time.time()}\\\\n")
time.sleep(600)
'''

def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

@job(id="holds", timeout=None)
def holds(ctx: JobContext):
    earlier = [line.split() for line in RECORD.read_text().splitlines()]
    alive = [pid for _, pid, id_, *_ in earlier if id_ == ctx.id and is_alive(pid)]
    with RECORD.open("a") as file:
        file.write(f"start {os.getpid()} {ctx.id} {time.time()} {','.join(alive)}\\n")
    if not HOLD.exists():
        return "done"
    subprocess.Popen([sys.executable, "-S", "-c", DEAF, str(RECORD), ctx.id])
    ctypes.PyDLL(None).sleep(600)
"""


@pytest.mark.trap("D-85")
@pytest.mark.trap("D-95")
@pytest.mark.parametrize("runtime", ["worker-process", "subprocess"])
def test_the_rerun_starts_when_children_and_grandchildren_of_a_killed_worker_are_dead(
    tmp_path: Path, database_url: str, runtime: str
) -> None:
    place = write_project(tmp_path / "shop", {"jobs/holds.py": JOBS})
    record, hold = tmp_path / "record", tmp_path / "hold"
    record.touch()
    hold.touch()
    env = {
        "NETSCRIPT_DATABASE_URL": database_url,
        "WORKERS_CONCURRENCY": "2",
        "TEST_RECORD": str(record),
        "TEST_HOLD": str(hold),
    }
    store = Store(database_url)

    def lines(kind: str) -> list[list[str]]:
        found = [line.split(" ") for line in record.read_text().splitlines()]
        return [one for one in found if one[0] == kind]

    def worker() -> Process:
        command = ("-m", "netscript_triggers", "worker", "--runtime", runtime)
        return Process(*command, cwd=place, env=env)

    def workers() -> int:
        return int(scalar(store, "SELECT count(*) FROM netscript_workers"))

    given = [new("holds", max_attempts=1) for _ in range(2)]
    with worker() as victim:
        eventually(workers, 30)
        put(store, *given)
        eventually(lambda: len(lines("grandchild")) == 2, 60, "their grandchildren")
        with worker() as other:
            eventually(lambda: workers() == 2, 30)
            hold.unlink()
            victim.kill()
            killed = time.time()
            eventually(lambda: len(lines("start")) == 4, 60, "two more starts")
            eventually(lambda: all(_is_done(store, one.id) for one in given), 60)
            assert other.terminate(30) == 0, other.output
    again = lines("start")[2:]
    assert [one[4] for one in again] == ["", ""], "an attempt began beside one that lives"
    print(f"started again after {[round(float(one[3]) - killed, 3) for one in again]} s")
    # The bound is a second; what this machine adds when it is busy is not the product's.
    assert max(float(one[3]) for one in again) - killed < 10.0
    sql = "SELECT DISTINCT status, attempt, losses FROM netscript_execution_history"
    assert rows(store, sql) == [("completed", 1, 1)]
    for line in record.read_text().splitlines():
        assert not is_alive(int(line.split()[1])), "a process is left"
    store.dispose()


def _is_done(store: Store, execution_id: str) -> bool:
    return detail(store, execution_id).execution.status == "completed"
