"""What a new project is deployed with, as far as it can be tried without an engine."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from netscript_triggers.scaffold import write_project as begin
from tests.support import Process, free_port, netscript, wait_until_answers

TOKEN = "geheim-geheim-geheim"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    begin(tmp_path / "shop")
    return tmp_path / "shop"


def compose(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project / "compose.yaml").read_text())
    return found


def manifests(project: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((project / "deploy/kubernetes/netscript.yaml").read_text()))


def containers(project: Path) -> dict[str, dict[str, Any]]:
    return {
        container["name"]: container
        for manifest in manifests(project)
        if "template" in manifest["spec"]
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }


def commands(project: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every command of ours that one of the files runs."""
    for name, service in compose(project)["services"].items():
        if "build" in service:
            yield f"compose, {name}", service["command"]
    for name, container in containers(project).items():
        yield f"kubernetes, {name}", container["command"]
    for line in (project / "Dockerfile").read_text().splitlines():
        if line.startswith("CMD "):
            yield "Dockerfile", yaml.safe_load(line[4:])
    for unit in (project / "deploy/systemd").iterdir():
        (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        program, *rest = shlex.split(line)
        assert program == "/srv/shop/.venv/bin/netscript"
        yield unit.name, ["netscript", *rest]


def test_all_of_them_run_the_same_three_commands(project: Path) -> None:
    found = dict(commands(project))
    assert len(found) == 4 + 3 + 1 + 3
    everywhere = ["netscript", "serve", "--host", "0.0.0.0"]
    for where, command in found.items():
        assert command[:2] in (["netscript", "serve"], ["netscript", "worker"]) or command == [
            "netscript",
            "db",
            "upgrade",
        ], where
        if command[1] == "serve":
            assert command in (everywhere, everywhere[:2]), where


def test_nothing_of_compose_runs_without_its_secrets(project: Path) -> None:
    services = compose(project)["services"]
    assert set(services) == {"database", "migrate", "server", "worker-1", "worker-2"}
    for name, service in services.items():
        if name != "database":
            environment = service["environment"]
            for variable in ("NETSCRIPT_API_TOKENS", "WEBHOOK_SECRET"):
                assert environment[variable] == f"${{{variable}:?set it in .env}}"
            assert "${POSTGRES_PASSWORD:?" in environment["NETSCRIPT_DATABASE_URL"]
        for other, wanted in service.get("depends_on", {}).items():
            assert other in services
            has = "healthcheck" in services[other]
            assert has or wanted["condition"] == "service_completed_successfully"
    ignored = (project / ".dockerignore").read_text().split()
    assert ".env" in ignored


def test_the_manifest_is_what_kubernetes_takes(project: Path) -> None:
    given = manifests(project)
    version = kubernetes_validate.latest_version()
    for manifest in given:
        kubernetes_validate.validate(manifest, version, strict=True)
    (service,) = [one for one in given if one["kind"] == "Service"]
    (server,) = [one for one in given if one["metadata"]["name"] == "shop-server"]
    assert service["spec"]["selector"] == server["spec"]["template"]["metadata"]["labels"]
    for manifest in given:
        if manifest["kind"] != "Service":
            assert manifest["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    for container in containers(project).values():
        assert container["envFrom"] == [{"secretRef": {"name": "shop"}}]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**server, "replicas": 2}, version, strict=True)


def test_the_image_runs_as_nobody_and_holds_no_secret(project: Path) -> None:
    lines = (project / "Dockerfile").read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    assert ":" in steps[0][1]  # one that is named, not the latest of that day
    names = [name for name, _ in steps]
    assert names.count("CMD") == 1
    assert names.index("USER") < names.index("CMD")
    assert dict(steps)["USER"] == str(
        manifests(project)[0]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    )
    assert not re.search("SECRET|TOKEN|PASSWORD", "\n".join(lines))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_the_units_are_what_systemd_takes(project: Path, tmp_path: Path) -> None:
    place = tmp_path / "units"
    shutil.copytree(project / "deploy/systemd", place)
    for unit in place.iterdir():  # what a machine has that runs them
        text = unit.read_text().replace("/srv/shop/.venv/bin/netscript", "/bin/true")
        unit.write_text(text.replace("User=shop", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(place.glob("*.service")))],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "netscript" in line]
    assert not ours, done.stderr


def test_the_commands_run_with_the_variables_that_the_files_give(
    project: Path, database_url: str
) -> None:
    (project / ".env").unlink()  # the image has none
    found = dict(commands(project))
    given = {"NETSCRIPT_DATABASE_URL": database_url, "WEBHOOK_SECRET": "s3cret"}
    assert netscript(*found["compose, migrate"][1:], cwd=project, env=given).returncode == 0
    serve = found["compose, server"]
    refused = netscript(*serve[1:], cwd=project, env=given)
    assert (refused.returncode, "Set NETSCRIPT_API_TOKENS" in refused.stderr) == (1, True)
    port = free_port()
    given |= {"NETSCRIPT_API_TOKENS": TOKEN, "NETSCRIPT_PORT": str(port)}
    with (
        Process("-m", "netscript_triggers", *serve[1:], cwd=project, env=given) as server,
        Process(
            "-m", "netscript_triggers", *found["compose, worker-1"][1:], cwd=project, env=given
        ) as worker,
    ):
        probe = containers(project)["server"]["livenessProbe"]["httpGet"]["path"]
        wait_until_answers(f"http://127.0.0.1:{port}", probe)
        wait_until_answers(f"http://127.0.0.1:{port}", "/health/ready")
        url = f"http://127.0.0.1:{port}/api/v1/workers/jobs"
        assert httpx.get(url, trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "shop"}
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
        assert (worker.terminate(), server.terminate()) == (0, 0)
