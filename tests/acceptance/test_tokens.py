"""A server with tokens, as it runs: what they open, and that they show nowhere."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import httpx
import pytest

from netscript_triggers.scaffold import write_project as begin
from netscript_workers.store import migrations
from tests.support import Process, free_port, netscript, wait_until_answers

TOKENS = {
    "admin": "geheim-eins-AAAAAAAAAAAA",
    "ci": "geheim-zwei-BBBBBBBBBBBB",
    "wrong": "geheim-drei-CCCCCCCCCCCC",
}
TRIGGER = "/api/v1/workers/jobs/health-check/trigger"
SETTING = f"{TOKENS['admin']},ci:read:{TOKENS['ci']}"


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Path:
    begin(tmp_path / "shop")
    migrations.upgrade(database_url)
    return tmp_path / "shop"


def server(project: Path, port: int, *flags: str, **env: str) -> Process:
    command = ["-m", "netscript_triggers", "serve", "--port", str(port), *flags]
    return Process(*command, cwd=project, env=env)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def test_tokens_open_the_server_and_show_nowhere(project: Path, database_url: str) -> None:
    env = {"NETSCRIPT_DATABASE_URL": database_url, "NETSCRIPT_API_TOKENS": SETTING}
    ports = [free_port(), free_port()]
    flags = ("--host", "0.0.0.0", "--log-level", "debug")
    seen: list[str] = []
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server(project, port, *flags, **env)) for port in ports]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for url in urls:
            wait_until_answers(url)
        client = stack.enter_context(httpx.Client(base_url=urls[0], trust_env=False))
        for name, status in (("admin", 202), ("ci", 403), ("wrong", 401)):
            headers = {**bearer(name), "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            answer = client.post(TRIGGER, json={}, headers=headers)
            assert answer.status_code == status
            seen.append(answer.text)
        for bad in ({"access_token": TOKENS["admin"]}, {"limit": "x"}):
            answer = client.get("/api/v1/workers/executions", params=bad, headers=bearer("wrong"))
            seen.append(answer.text)
        seen.append(client.post(TRIGGER, content=b"{", headers=bearer("admin")).text)
        page = client.get("/login").text
        form = re.search(r'name="form_token" value="([^"]+)"', page)
        assert form is not None
        given = {"form_token": form[1], "token": TOKENS["admin"]}
        answer = client.post("/login", data=given)
        assert answer.status_code == 303
        seen += [page, str(answer.headers)]
        # The other process knows the cookie.
        cookies = dict(client.cookies)
        home = httpx.get(f"{urls[1]}/", cookies=cookies, trust_env=False)
        assert "<strong>admin</strong>" in home.text
        seen.append(home.text)
        told = json.loads(netscript("audit", "list", "--json", cwd=project, env=env).stdout)
        assert [entry["action"] for entry in told["entries"]] == ["login", "jobs.trigger"]
        done = netscript("doctor", cwd=project, env=env)
        assert "tokens: admin (admin), ci (read)." in done.stdout
        seen += [done.stdout, done.stderr, json.dumps(told)]
        for one in servers:
            assert one.terminate() == 0
            seen.append(one.output)
    seen.append(dump(database_url))
    text = "\n".join(seen)
    assert "a wrong token came from 127.0.0.1" in text
    assert "health-check" in text
    assert not [name for name, token in TOKENS.items() if token in text or token[-12:] in text]


def dump(url: str) -> str:
    """Return all that a database holds, as text."""
    from sqlalchemy import inspect, text

    from netscript_workers.store.engine import Store

    store = Store(url)
    try:
        with store.read() as conn:
            names = inspect(conn).get_table_names()
            assert "netscript_audit" in names
            return "\n".join(
                str(row)
                for name in names
                for row in conn.execute(text(f'SELECT * FROM "{name}"')).all()
            )
    finally:
        store.dispose()


def test_without_tokens_only_loopback_is_bound_but_where_somebody_says_insecure(
    project: Path, database_url: str
) -> None:
    env = {"NETSCRIPT_DATABASE_URL": database_url}
    for command in (["serve"], ["dev"]):
        done = netscript(*command, "--host", "0.0.0.0", cwd=project, env=env)
        assert done.returncode == 1
        assert "binds to loopback only, not to 0.0.0.0. Set NETSCRIPT_API_TOKENS" in done.stderr
    with server(project, port := free_port(), "--host", "0.0.0.0", "--insecure", **env) as one:
        wait_until_answers(f"http://127.0.0.1:{port}")
        assert f"--insecure: whoever reaches 0.0.0.0:{port} can do everything" in one.output
        headers = {"Host": "shop.example"}
        answer = httpx.get(
            f"http://127.0.0.1:{port}/api/v1/triggers", headers=headers, trust_env=False
        )
        assert answer.status_code == 200


def test_a_token_that_cannot_be_used_is_told_without_it(project: Path) -> None:
    short = "geheim-kurz"
    for command in (["serve"], ["worker"], ["doctor"]):
        done = netscript(*command, cwd=project, env={"NETSCRIPT_API_TOKENS": short})
        told = done.stdout + done.stderr
        assert "NETSCRIPT_API_TOKENS: the value given can't be used: the token in entry 1" in told
        assert short not in told
        assert done.returncode in (1, 2)
