"""What the wheel holds, and that the installed package knows its own migrations."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support import clean_environment


def test_the_wheel_installs_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "netscript_triggers",
        "netscript_workers",
    }
    for wanted in (
        "netscript_workers/py.typed",
        "netscript_triggers/py.typed",
        "netscript_workers/migrations/env.py",
        "netscript_workers/migrations/versions/0001_outbox.py",
        "netscript_workers/migrations/versions/0002_crashes.py",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def run(code: str, installed: dict[str, str], place: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env={**clean_environment(), **installed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_installed_package_migrates_from_its_own_files(
    installed: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import netscript_workers; from netscript_workers.store import migrations;"
        "migrations.upgrade('sqlite:///x.db');"
        "print(netscript_workers.__file__); print(migrations.scripts())"
    )
    package, scripts = run(code, installed, tmp_path).split()
    assert package.startswith(installed["PYTHONPATH"])
    assert scripts.startswith(installed["PYTHONPATH"])


def test_importing_definitions_loads_neither_sql_nor_http(
    installed: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import sys, netscript_workers.jobs, netscript_workers.execution.runners.in_process;"
        "print(sorted({'sqlalchemy', 'fastapi', 'uvicorn', 'alembic'} & set(sys.modules)))"
    )
    assert run(code, installed, tmp_path) == "[]"
