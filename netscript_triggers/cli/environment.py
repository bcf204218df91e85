"""The project's `.env`: variables for what runs in its folder, unless they are set already."""

from __future__ import annotations

import os
from pathlib import Path

from netscript_workers.errors import ConfigurationError

_FILE = ".env"
# What came from the file, which a process that starts anew reads for itself.
_loaded: set[str] = set()


def load_environment(project: Path) -> None:
    """Set the variables that stand in the project's `.env` and are not set.

    Raises:
        ConfigurationError: The file can't be read.
    """
    path = project / _FILE
    if not path.is_file():
        return
    from dotenv import dotenv_values

    try:
        found = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read: {_reason(error)}.") from None
    for name, value in found.items():
        if value is not None and name not in os.environ:
            os.environ[name] = value
            _loaded.add(name)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Say why, without what stands in the file."""
    return error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8"


def inherited() -> dict[str, str]:
    """Return the environment as it was given, for a process that reads the file itself."""
    return {name: value for name, value in os.environ.items() if name not in _loaded}
