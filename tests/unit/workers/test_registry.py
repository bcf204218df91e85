"""Discovery: what a project's folders hold, whatever else is on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netscript_workers.errors import (
    ConfigurationError,
    DiscoveryError,
    DuplicateIdError,
    JobNotFoundError,
)
from netscript_workers.registry import discover_jobs, job_named
from tests.support import write_project

JOB = "from netscript_workers import job\n@job(id='{id}')\nasync def it(ctx):\n    return '{id}'\n"


@pytest.fixture(autouse=True)
def own_path() -> Iterator[None]:
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


def test_modules_are_imported_by_dotted_name_with_the_project_first(tmp_path: Path) -> None:
    project = write_project(
        tmp_path,
        {
            "jobs/a.py": JOB.format(id="a"),
            "jobs/deep/b.py": "from jobs.a import it as other\n" + JOB.format(id="b"),
            "jobs/_private.py": "raise RuntimeError",
            "jobs/.hidden/c.py": "raise RuntimeError",
            "helpers.py": "",
        },
    )
    found = discover_jobs(project)
    assert list(found) == ["a", "b"]
    assert found["a"].source == "jobs.a.it"
    assert sys.path[0] == str(project)
    # One object that two modules hold is one definition.
    assert sys.modules["jobs.deep.b"].other is found["a"]


def test_two_projects_in_one_process_do_not_mix(tmp_path: Path) -> None:
    one = write_project(tmp_path / "one", {"jobs/a.py": JOB.format(id="one")})
    two = write_project(
        tmp_path / "two", {"jobs/a.py": JOB.format(id="two"), "jobs/__init__.py": ""}
    )
    assert list(discover_jobs(one)) == ["one"]
    assert list(discover_jobs(two)) == ["two"]
    assert list(discover_jobs(one)) == ["one"]


def test_a_package_of_the_same_name_elsewhere_does_not_win(tmp_path: Path) -> None:
    elsewhere = write_project(
        tmp_path / "site", {"jobs/__init__.py": "", "jobs/z.py": "raise RuntimeError"}
    )
    sys.path.insert(0, str(elsewhere))
    project = write_project(tmp_path / "shop", {"jobs/a.py": JOB.format(id="a")})
    assert list(discover_jobs(project)) == ["a"]


def test_two_different_jobs_with_one_id_are_an_error(tmp_path: Path) -> None:
    project = write_project(
        tmp_path, {"jobs/a.py": JOB.format(id="same"), "jobs/b.py": JOB.format(id="same")}
    )
    with pytest.raises(
        DuplicateIdError, match=r"jobs\.a\.it in jobs.a\.py and jobs\.b\.it in jobs.b\.py"
    ):
        discover_jobs(project)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1\nraise ValueError('no')\n", "broken.py, line 2: ValueError: no"),
        ("def f(:\n", "broken.py, line 1: SyntaxError"),
        ("import nothing_like_this\n", "broken.py, line 1: ModuleNotFoundError"),
        ("import sys\n\nsys.exit(3)\n", "broken.py, line 3: SystemExit: 3"),
    ],
)
def test_a_module_that_breaks_is_named_with_its_line(tmp_path: Path, code: str, told: str) -> None:
    project = write_project(tmp_path, {"jobs/broken.py": code})
    with pytest.raises(DiscoveryError) as refusal:
        discover_jobs(project)
    assert told in str(refusal.value)


def test_a_definition_that_is_refused_says_so_itself(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"jobs/a.py": JOB.format(id="no blanks")})
    with pytest.raises(ConfigurationError, match="no blanks"):
        discover_jobs(project)


def test_a_folder_that_is_not_there_is_empty_and_an_odd_one_is_refused(tmp_path: Path) -> None:
    assert discover_jobs(tmp_path) == {}
    assert discover_jobs(
        write_project(tmp_path, {"shop/jobs/a.py": JOB.format(id="a")}), "shop/jobs"
    )
    for folder in ("../jobs", "/jobs", "my-jobs", ""):
        with pytest.raises(ConfigurationError, match="can't be imported"):
            discover_jobs(tmp_path, folder)


def test_a_job_is_found_by_its_id_or_the_nearest_is_named(tmp_path: Path) -> None:
    found = discover_jobs(write_project(tmp_path, {"jobs/a.py": JOB.format(id="send-mail")}))
    assert job_named(found, "send-mail").id == "send-mail"
    with pytest.raises(JobNotFoundError, match='Did you mean "send-mail"'):
        job_named(found, "send-mial")
