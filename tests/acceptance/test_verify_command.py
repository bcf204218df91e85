"""`netscript verify`, as a process."""

from __future__ import annotations

import json
from pathlib import Path

from netscript_workers.store.engine import Store
from tests.kit import new, put, run
from tests.support import ROOT, netscript


def test_verify_exits_0_where_nothing_is_broken_and_1_where_something_is(
    database_url: str, tmp_path: Path
) -> None:
    store, env = Store(database_url), {"NETSCRIPT_DATABASE_URL": database_url}
    put(store, *(new() for _ in range(3)))
    done = netscript("verify", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "Nothing is broken.\n")
    assert "3 live" in done.stderr
    run(store, "UPDATE netscript_executions SET attempt = 9")
    done = netscript("verify", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert done.stdout.count("attempts-exceeded") == 3
    done = netscript("verify", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["counts"] == {"attempts-exceeded": 3}
    assert told["findings"][0]["detail"] == "attempt 9 of 3"
    assert told["checked"]["live"] == 3
    store.dispose()


def test_every_code_there_is_has_its_line_in_the_documentation() -> None:
    sources = [*ROOT.glob("netscript_*/store/verify*.py")]
    codes = {
        part.split('"')[1]
        for source in sources
        for part in source.read_text().replace("\n", "").split("report.add(")[1:]
    }
    told = (ROOT / "docs/verify.md").read_text()
    documented = {line.split("`")[1] for line in told.splitlines() if line.startswith("| `")}
    assert codes == documented
