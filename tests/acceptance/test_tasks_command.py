"""Tasks from the outside: the commands, the API, a trigger that enqueues one."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.support import (
    Process,
    eventually,
    free_port,
    netscript,
    wait_until_answers,
    write_project,
)

BASE = "/api/v1/workers"


def test_a_task_is_written_listed_shown_triggered_and_told_of(
    tmp_path: Path, database_url: str
) -> None:
    port = free_port()
    env = {"NETSCRIPT_DATABASE_URL": database_url, "NETSCRIPT_PORT": str(port)}
    place = write_project(
        tmp_path / "shop",
        {
            "jobs/plain.py": "from netscript_workers import job\n@job\ndef plain(ctx): ...\n",
            "triggers/asks.py": "from netscript_triggers import enqueue_job, manual_trigger\n"
            "from tasks.make_report import make_report\n"
            "@manual_trigger(id='asks')\n"
            "def asks(event):\n"
            "    return enqueue_job(make_report, payload={'name': 'trigger'})\n",
        },
    )
    made = netscript("add", "task", "make-report", "--json", cwd=place, env=env)
    told = json.loads(made.stdout)
    assert Path(told["path"]).name == "make_report.py"
    assert told["fire"] == "netscript tasks trigger make-report --payload '{}' --wait"
    assert netscript("db", "upgrade", cwd=place, env=env).returncode == 0
    listed = json.loads(netscript("tasks", "list", "--json", cwd=place, env=env).stdout)
    assert [(one["id"], one["runtime"]) for one in listed["tasks"]] == [("make-report", "shell")]
    jobs = json.loads(netscript("jobs", "list", "--json", cwd=place, env=env).stdout)
    assert [one["id"] for one in jobs["jobs"]] == ["plain"]
    shown = json.loads(
        netscript("tasks", "show", "make-report", "--json", cwd=place, env=env).stdout
    )
    assert shown["argv"][-1] == str(place / "tasks/scripts/make_report.sh")
    assert shown["fault"] is None
    for command, sentence in (
        (("tasks", "show", "make-raport"), 'Did you mean "make-report"?'),
        (("tasks", "trigger", "make-raport"), 'Did you mean "make-report"?'),
        (("jobs", "trigger", "make-report"), "netscript tasks trigger make-report"),
        (("tasks", "trigger", "plain"), "netscript jobs trigger plain"),
    ):
        refused = netscript(*command, cwd=place, env=env)
        assert refused.returncode == 1
        assert sentence in refused.stderr

    with (
        Process("-m", "netscript_triggers", "serve", cwd=place, env=env) as server,
        Process("-m", "netscript_triggers", "worker", cwd=place, env=env) as worker,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until_answers(url)
        done = netscript("tasks", "trigger", "make-report", "--wait", "--json", cwd=place, env=env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result"] == {"greeting": "Hello from make-report"}
        with httpx.Client(base_url=url, trust_env=False) as api:
            tasks = api.get(f"{BASE}/tasks").json()
            assert [one["id"] for one in tasks["tasks"]] == ["make-report"]
            assert api.get(f"{BASE}/jobs/make-report").status_code == 404
            assert api.post(f"{BASE}/jobs/make-report/trigger", json={}).status_code == 404
            bad = api.post(f"{BASE}/tasks/make-report/trigger", json={"name": 5})
            assert bad.status_code == 422
            headers = {"Idempotency-Key": "k"}
            asked = [
                api.post(f"{BASE}/tasks/make-report/trigger", json={}, headers=headers).json()
                for _ in range(2)
            ]
            assert [one["triggered"] for one in asked] == [True, False]
            seeded = api.post(f"{BASE}/seed", json={}).json()
            assert (seeded["jobs_created"], seeded["tasks_created"]) == (0, 0)
            fired = netscript("triggers", "fire", "asks", "--payload", "{}", cwd=place, env=env)
            assert fired.returncode == 0, fired.stderr

            def found() -> list[tuple[str, str]]:
                page = api.get(f"{BASE}/executions", params={"job_id": "make-report"}).json()
                return sorted((one["kind"], one["triggered_by"]) for one in page["executions"])

            wanted = [("task", "api"), ("task", "api"), ("task", "manual")]
            eventually(lambda: found() == wanted, what="what the trigger asked for")
        assert worker.terminate() == 0, worker.output
        assert server.terminate() == 0, server.output


def test_doctor_fails_for_a_runtime_that_a_task_needs_and_for_no_other(tmp_path: Path) -> None:
    task = (
        "from netscript_workers import define_task\n"
        "t = define_task(id='{id}', runtime='{runtime}', entrypoint='tasks/a.sh'{more})\n"
    )
    place = write_project(
        tmp_path / "shop",
        {
            "tasks/good.py": task.format(id="good", runtime="shell", more=""),
            "tasks/a.sh": "true\n",
        },
    )
    netscript("db", "upgrade", cwd=place)
    told = json.loads(netscript("doctor", "--json", cwd=place).stdout)
    found = {one["what"]: one["status"] for one in told["findings"]}
    assert (found["runtimes"], found['task "good"']) == ("ok", "ok")
    more = ", interpreter='no-such-node'"
    write_project(place, {"tasks/bad.py": task.format(id="bad", runtime="node", more=more)})
    failed = netscript("doctor", "--json", cwd=place)
    assert failed.returncode == 1
    found = {one["what"]: one for one in json.loads(failed.stdout)["findings"]}
    assert found['task "bad"']["status"] == "fail"
    assert "Install Node.js" in found['task "bad"']["hint"]
