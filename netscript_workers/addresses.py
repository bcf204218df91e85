"""Addresses on the network: who really sent a request, and whether that one is on a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_FORWARDED = b"x-forwarded-for"
# Longer than any address with a port and brackets; also what a cache may be filled with.
_MAX_TEXT = 64
_MAX_HOPS = 50


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine's own, as it is written."""
    if host in LOOPBACK:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """Return the name in a `Host` header, without the port; empty where there is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read addresses and networks, such as `10.0.0.0/8`, `203.0.113.7` or `2001:db8::/32`.

    Raises:
        ValueError: One is neither; the message names it.
    """
    return tuple(_network(text) for text in texts)


def _network(text: str) -> Network:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        msg = f"{text!r} is no address and no network, such as 203.0.113.7 or 10.0.0.0/8 ({error})"
        raise ValueError(msg) from None


@dataclass(frozen=True, slots=True)
class AllowList:
    """Some networks, and whether an address is in one of them."""

    networks: tuple[Network, ...] = ()

    def __contains__(self, address: Address | None) -> bool:
        """Tell whether an address is in one of them; one that is not known never is."""
        # A network of the other version contains nothing, says the standard library.
        return address is not None and any(address in network for network in self.networks)

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self.networks)


class Clients:
    """Finds out who sent a request, behind the proxies that are trusted and no others."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        """Believe what these proxies say in `X-Forwarded-For`."""
        self._trusted = AllowList(tuple(trusted))

    def address(self, scope: Mapping[str, Any]) -> Address | None:
        """Return the sender's address; None where it can't be known.

        Each proxy appends whom it was called by. So the entries are read from the end, as long as
        they come from a proxy that is trusted; what stands before those, anybody may have written.
        """
        peer = scope.get("client")
        address = parse_address(peer[0]) if peer else None
        if not self._trusted or address not in self._trusted:
            return address
        given = b",".join(value for name, value in scope["headers"] if name == _FORWARDED)
        if not given.strip():
            return address
        for entry in reversed(given.decode("latin-1").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
            address = parse_address(entry.strip())
            if address not in self._trusted:
                return address
        return address


def parse_address(text: str) -> Address | None:
    """Read an address, which a port may follow: `192.0.2.1:80`, `[2001:db8::1]:80`."""
    return _parsed(text) if len(text) <= _MAX_TEXT else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # One listener for both versions sees IPv4 senders in this form.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
