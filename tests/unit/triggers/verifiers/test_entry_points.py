"""Verifiers of other packages: found by the names under which those offer them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from netscript_triggers import RawRequest, VerificationError
from netscript_triggers.testing import check_verifier
from netscript_triggers.verifiers import verifier_named
from netscript_workers.errors import ConfigurationError

MODULE = """
from netscript_triggers.verifiers.hmac import HmacVerifier

mine = HmacVerifier(name="mine", headers=("X-Mine",))

def made():
    return HmacVerifier(name="made", headers=("X-Made",))

class NoVerifier: ...

def broken():
    raise RuntimeError("no licence")
"""
POINTS = """
[netscript.verifiers]
mine = offered_verifiers:mine
made = offered_verifiers:made
github = offered_verifiers:mine
none = offered_verifiers:NoVerifier
broken = offered_verifiers:broken
missing = offered_verifiers:not_there
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that offers some."""
    about = tmp_path / "offered_verifiers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: offered-verifiers\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(POINTS)
    (tmp_path / "offered_verifiers.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["mine", "made"])
def test_an_installed_verifier_is_known_by_its_name(name: str) -> None:
    found = verifier_named(name)
    check_verifier(found, secret=b"one", other_secret=b"another")
    with pytest.raises(VerificationError):
        found.verify(RawRequest("POST", "/", (), b"{}"), [b"one"], 0.0)


def test_a_presets_name_can_not_be_taken_over() -> None:
    assert verifier_named("github").private_headers == {"x-hub-signature-256"}


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "is none"), ("broken", "no licence"), ("missing", "can't be loaded")],
)
def test_one_that_is_none_is_told_with_its_origin(name: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        verifier_named(name)
    assert "offered_verifiers:" in str(refused.value)


def test_one_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as refused:
        verifier_named("mines")
    assert refused.value.hint == 'Did you mean "mine"?'
