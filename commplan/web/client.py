"""Who asks: the address that a request came from, also through proxies, as far as these are trusted to tell it.

What comes from here is for a keyed hash in memory and for nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Whoever has one address of IPv6 has a whole network of them.
_PREFIX = 64


class Proxies:
    """The proxies whose word is taken: those of this machine, and `networks`."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(network) for network in networks]

    def client_of(self, scope: Scope) -> str | None:
        """Return who asks: an address, or a network of IPv6; None if that is this machine, or a proxy does not say.

        Of X-Forwarded-For what was added last by a trusted proxy counts: before it anybody may have written anything.
        """
        client = _read(scope["client"][0]) if scope.get("client") else None
        told = self._told(scope)
        while client is not None and self._trusts(client) and told:
            client = _read(told.pop())
        if client is None or self._trusts(client):
            return None
        return str(ip_network((client, _PREFIX), strict=False) if isinstance(client, IPv6Address) else client)

    def is_passed_on_by_a_stranger(self, scope: Scope) -> bool:
        """Tell whether a proxy that is not trusted seems to have passed on a request."""
        client = _read(scope["client"][0]) if scope.get("client") else None
        return client is not None and not self._trusts(client) and bool(self._told(scope))

    @staticmethod
    def _told(scope: Scope) -> list[str]:
        """Return what proxies say, the last of them last."""
        return [entry for line in Headers(scope=scope).getlist("x-forwarded-for") for entry in line.split(",")]

    def _trusts(self, address: Address) -> bool:
        return address.is_loopback or any(address in network for network in self._networks)


def _read(text: str) -> Address | None:
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
