"""What `netscript init` and `netscript add` write: files made of templates, never over others."""

from __future__ import annotations

import keyword
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from netscript_workers.errors import ConfigurationError, StateError, nearest

_PLACE = Path(__file__).parent
_CHECKOUT = _PLACE.parents[1]
_TEMPLATE = ".j2"
# What only its owner may read.
_PRIVATE = frozenset({".env"})
_SAMPLES = ("jobs/process_payment.py", "triggers/payment_webhook.py")
# What a bare project does without.
_EXTRAS = (
    "deploy/",
    "tests/",
    "Dockerfile",
    "compose.yaml",
    ".dockerignore",
    "jobs/health_check.py",
    "README.md",
)
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of file that `netscript add` writes.

    Attributes:
        folder: The setting that names the folder it belongs to.
        fired: The command that sets it off, with the id in `{id}`.
    """

    folder: str
    fired: str


PARTS: Mapping[str, Part] = {
    "job": Part("jobs_dir", "netscript jobs trigger {id} --payload '{{}}' --wait"),
    "webhook": Part("triggers_dir", "netscript triggers test {id} --payload '{{}}'"),
    "schedule": Part("triggers_dir", "netscript triggers fire {id}"),
    "queue": Part("triggers_dir", "netscript triggers fire {id} --payload '{{}}'"),
    "file-watch": Part(
        "triggers_dir", 'netscript triggers fire {id} --payload \'{{"path": "a.csv"}}\''
    ),
    "manual": Part("triggers_dir", "netscript triggers fire {id} --payload '{{}}'"),
}


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the files of a project: by their paths in it."""

    made: tuple[str, ...]
    kept: tuple[str, ...]


def new_secret() -> str:
    """Return a secret of 256 bits that fits into a header, a URL and a shell."""
    return secrets.token_urlsafe(SECRET_BYTES)


def write_project(place: Path, *, bare: bool = False) -> Written:
    """Write a new project; what is there already is kept as it is.

    Args:
        place: Its folder, which is made if need be.
        bare: Only what must be there: the configuration, one job and one webhook.

    Raises:
        ConfigurationError: The folder's name is a file's.
    """
    if place.exists() and not place.is_dir():
        raise ConfigurationError(f"{place} is a file.", hint="Name a folder.")
    name = re.sub(r"[^a-z0-9]+", "-", place.absolute().name.lower()).strip("-") or "project"
    values = {"name": name, "secret": new_secret()}
    made: list[str] = []
    kept: list[str] = []
    for path, content in sorted(_project(values).items()):
        if bare and path.startswith(_EXTRAS):
            continue
        (made if _write(place / path, content) else kept).append(path)
    return Written(tuple(made), tuple(kept))


def write_part(kind: str, name: str, folder: Path) -> tuple[Path, str]:
    """Write one file of a kind; return its path and the id of what is in it.

    Args:
        kind: One of `PARTS`.
        name: Such as `send-receipt`.
        folder: Where it is written.

    Raises:
        ConfigurationError: There is no such kind, or the name can't be one.
        StateError: The file is there already.
    """
    if kind not in PARTS:
        close = nearest(kind, PARTS)
        raise ConfigurationError(
            f'There is no "{kind}" to add.',
            hint=f'Did you mean "{close}"?' if close else f"There are: {', '.join(PARTS)}.",
        )
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigurationError(
            f"{name!r} can't be a name.",
            hint="Write lower-case words with dashes between them: send-receipt.",
        )
    words = re.split("[-_]", name)
    values: dict[str, Any] = {
        "id": "-".join(words),
        "function": "_".join(words),
        "model": "".join(word.capitalize() for word in words),
        "variable": "_".join(words).upper(),
    }
    path = folder / f"{values['function']}.py"
    if not _write(path, _render(f"parts/{kind}.py{_TEMPLATE}", values)):
        raise StateError(f"{path} is there already.", hint="Choose another name.")
    return path, values["id"]


def _project(values: Mapping[str, Any]) -> dict[str, str]:
    place = _PLACE / "project"
    files = {
        path.relative_to(place).as_posix().removesuffix(_TEMPLATE): _render(
            path.relative_to(_PLACE).as_posix(), values
        )
        for path in place.rglob(f"*{_TEMPLATE}")
    }
    return {**files, **{name: _sample(name).read_text(encoding="utf-8") for name in _SAMPLES}}


def _sample(name: str) -> Path:
    """Return a file of the samples: inside the installed package, or beside it in a checkout."""
    installed = _PLACE / "project" / name
    return installed if installed.is_file() else _CHECKOUT / name


def _render(name: str, values: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_PLACE),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - what is written is no page
    )
    return environment.get_template(name).render(values)


def _write(path: Path, content: str) -> bool:
    """Write a file unless it is there; tell whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            if path.name in _PRIVATE:
                path.chmod(0o600)
            file.write(content)
    except FileExistsError:
        return False
    return True
