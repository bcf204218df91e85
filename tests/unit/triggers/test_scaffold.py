"""What `init` and `add` write."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_triggers.registry import discover_triggers
from netscript_triggers.scaffold import PARTS, new_secret, write_part, write_project
from netscript_workers.errors import ConfigurationError, StateError
from netscript_workers.registry import discover_jobs


def lines_of(path: Path) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {name: value for name, value in pairs if not name.startswith("#")}


def test_every_project_has_a_secret_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    found: set[str] = set()
    for name in ("one", "two"):
        write_project(tmp_path / name)
        path = tmp_path / name / ".env"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secret = lines_of(path)["WEBHOOK_SECRET"]
        assert len(secret) >= 43
        elsewhere = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
        assert not any(secret in file.read_text() for file in elsewhere)
        found.add(secret)
    assert len(found) == 2


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    first = write_project(tmp_path)
    assert not first.kept
    (tmp_path / "jobs" / "process_payment.py").write_text("mine = 1\n")
    (tmp_path / ".gitignore").unlink()
    second = write_project(tmp_path)
    assert second.made == (".gitignore",)
    assert set(second.made) | set(second.kept) == set(first.made)
    assert (tmp_path / "jobs" / "process_payment.py").read_text() == "mine = 1\n"


def test_a_bare_project_has_what_must_be_there(tmp_path: Path) -> None:
    written = write_project(tmp_path, bare=True)
    assert written.made == (
        ".env",
        ".env.example",
        ".gitignore",
        "jobs/process_payment.py",
        "pyproject.toml",
        "triggers/payment_webhook.py",
    )


def test_a_project_is_named_after_its_folder(tmp_path: Path) -> None:
    write_project(tmp_path / "My Shop (2)")
    assert 'name = "my-shop-2"' in (tmp_path / "My Shop (2)" / "pyproject.toml").read_text()


def test_a_project_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("")
    with pytest.raises(ConfigurationError, match="is a file"):
        write_project(tmp_path / "shop")


def test_all_that_is_written_is_formatted_and_found(tmp_path: Path) -> None:
    write_project(tmp_path)
    for kind, part in PARTS.items():
        write_part(kind, f"my-{kind}", tmp_path / part.folder.removesuffix("_dir"))
    for command in (["check", "--select", "E,F,B,UP"], ["format", "--check", "--diff"]):
        options = ["--isolated", "--line-length", "100", "--no-cache", "--target-version", "py311"]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", command[0], *options, *command[1:], "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert set(discover_jobs(tmp_path)) == {"health-check", "my-job", "process-payment"}
    found = set(discover_triggers(tmp_path))
    assert found >= {"my-webhook", "my-file-watch", "my-manual", "my-queue", "payment-webhook"}


def test_a_name_can_be_written_either_way(tmp_path: Path) -> None:
    assert write_part("job", "send_receipt", tmp_path) == (
        tmp_path / "send_receipt.py",
        "send-receipt",
    )


@pytest.mark.parametrize("name", ["", "a b", "Send", "9lives", "../x", "class", "a--b", "é"])
def test_what_can_be_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be a name"):
        write_part("job", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path, _ = write_part("job", "receipt", tmp_path)
    path.write_text("mine = 1\n")
    with pytest.raises(StateError, match="is there already"):
        write_part("job", "receipt", tmp_path)
    assert path.read_text() == "mine = 1\n"


def test_a_kind_that_there_is_not_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='Did you mean "webhook"'):
        write_part("webhok", "x", tmp_path)


def test_secrets_are_not_alike() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) >= 43 for one in made)
