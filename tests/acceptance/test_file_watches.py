"""File watches in a real server: fired by hand, and told of by the commands."""

from __future__ import annotations

import json
from pathlib import Path

from netscript_workers.store.engine import Store
from tests.chaos.file_deaths import project
from tests.support import Process, eventually, free_port, netscript, wait_until_answers
from tests.watching import events


def test_a_watch_is_listed_fired_and_checked(sqlite_url: str, tmp_path: Path) -> None:
    place, port, store = project(tmp_path / "shop"), free_port(), Store(sqlite_url)
    inbox, env = place / "inbox", {"NETSCRIPT_DATABASE_URL": sqlite_url}
    (inbox / "old.csv").write_text("1")
    command = ("-m", "netscript_triggers", "serve", "--port", str(port))
    with Process(*command, cwd=place, env=env) as server:
        wait_until_answers(f"http://127.0.0.1:{port}")
        listed = netscript("triggers", "list", cwd=place, env=env)
        assert f"*.csv in {inbox}" in " ".join(listed.stdout.split())
        eventually(lambda: events(store) == [("create", "old.csv")])

        fired = netscript(
            "triggers", "fire", "inbox", "--payload", '{"path": "old.csv"}', "--wait", "10",
            cwd=place, env=env,
        )  # fmt: skip
        assert (fired.returncode, "is completed" in fired.stdout) == (0, True), fired.stderr
        refused = netscript(
            "triggers", "fire", "inbox", "--payload", '{"path": "/etc/passwd"}', cwd=place, env=env
        )
        assert refused.returncode == 1
        assert "is in no directory that the trigger watches" in refused.stderr
        assert server.terminate() == 0
    assert _findings(place, env) == [("ok", f"*.csv in '{inbox}'.")]
    inbox.rename(place / "away")
    assert _findings(place, env) == [("warn", f"'{inbox}' is not there; it is waited for.")]
    inbox.mkdir()  # what is below a mount
    told = f"'{inbox}' is empty, and not the directory that it was."
    assert ("warn", told) in _findings(place, env)
    store.dispose()


def _findings(place: Path, env: dict[str, str]) -> list[tuple[str, str]]:
    """Return what the check-up says of the watch."""
    found = json.loads(netscript("doctor", "--json", cwd=place, env=env).stdout)["findings"]
    return [(one["status"], one["detail"]) for one in found if one["what"].endswith('"inbox"')]
