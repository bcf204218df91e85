"""Exposure: the port that is opened, who could reach it, and what stands in their way."""

from __future__ import annotations

import socket

from netscript_workers.api.browsers import is_loopback
from netscript_workers.errors import ConfigurationError
from netscript_workers.settings import Settings

_HINT = (
    "Set NETSCRIPT_API_TOKENS to one that `netscript secrets new` prints, or bind to loopback; "
    "--insecure lets everybody in."
)


def check_exposure(settings: Settings, *, insecure: bool = False) -> str | None:
    """Refuse to have other machines reach a server that asks nobody for a token.

    Args:
        settings: The project's.
        insecure: Do it all the same.

    Returns:
        What is to be said at every start; None where all is well.

    Raises:
        ConfigurationError: There are no tokens, and the host is not loopback.
    """
    if settings.api_tokens:
        return None
    if is_loopback(settings.host):
        return "--insecure: any name reaches the API, without a token." if insecure else None
    if not insecure:
        raise ConfigurationError(
            f"Without tokens the server binds to loopback only, not to {settings.host}.",
            hint=_HINT,
        )
    return (
        f"--insecure: whoever reaches {settings.host}:{settings.port} can do everything, "
        "without a token."
    )


def bind(host: str, port: int) -> socket.socket:
    """Open the port; 0 takes any that is free.

    Raises:
        ConfigurationError: It can't be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Port {port} of {host} can't be opened: {error.strerror}.",
            hint="Choose another with --port.",
        ) from error
    return listener
