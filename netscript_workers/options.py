"""Options of definitions: their names and types, refused with a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from netscript_workers.errors import ConfigurationError, nearest

MAX_KEY_LENGTH = 512


class OptionError(ConfigurationError, TypeError):
    """An option has a name or a type that is not known."""

    code = "option"


def check_names(
    owner: str, given: Mapping[str, Any], known: Iterable[str], required: Iterable[str] = ()
) -> None:
    """Refuse options that there are not, and the lack of those that there must be.

    Raises:
        OptionError: A name is unknown, or a required one is missing.
    """
    names = tuple(known)
    for name in given:
        if name not in names:
            close = nearest(name, names)
            raise OptionError(
                f'{owner}: there is no option "{name}".',
                hint=f'Did you mean "{close}"?' if close else f"There are: {', '.join(names)}.",
            )
    for name in required:
        if name not in given:
            raise OptionError(f"{owner}: {name} is missing.", hint=f"Pass {name}=…")


def check_type(
    owner: str, name: str, value: Any, kinds: type | tuple[type, ...], wanted: str
) -> None:
    """Refuse a value of another type; True and False are no numbers.

    Raises:
        OptionError: It has another type.
    """
    accepted = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise OptionError(f"{owner}: {name}={value!r} must be {wanted}.")


def check_key(key: str | None, name: str, owner: str) -> None:
    """Refuse a key that not every database can hold.

    Raises:
        ConfigurationError: It is no text, empty, longer than 512 characters, or holds a NUL or a
            lone surrogate.
    """
    if key is None:
        return
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - often a number out of a payload
        raise ConfigurationError(
            f"{owner}: {name}={key!r} must be text.", hint=f"Write {name}=str(...)."
        )
    if not key or len(key) > MAX_KEY_LENGTH:
        raise ConfigurationError(
            f"{owner}: {name} must have 1 to {MAX_KEY_LENGTH} characters, not {len(key)}."
        )
    if not is_storable(key):
        raise ConfigurationError(f"{owner}: {name} holds a character that can't be stored.")


def is_storable(key: str) -> bool:
    """Tell whether every database can hold it: a NUL and a lone surrogate can't be written."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key
