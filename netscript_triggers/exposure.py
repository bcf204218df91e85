"""Exposure: who could reach a server, and whether anything stands in their way."""

from __future__ import annotations

from netscript_workers.addresses import is_loopback
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
