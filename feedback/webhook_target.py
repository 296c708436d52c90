"""Webhooks go to the public Internet by https, and to networks that an operator allows: a project's admin
must not reach what this machine reaches (server-side request forgery).

The address is checked when a connection is made, not when the name was stored: a name can change.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from schemas.errors import InvalidRequest

_GLOBAL_UNICAST = IPv6Network("2000::/3")


class Targets:
    """Which addresses webhooks may go to: public ones by https, those of `networks` also by http."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(each) for each in networks]

    def allow(self, address: str, scheme: str) -> bool:
        """Returns whether a connection to an IP address may be made."""
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if any(found.version == network.version and found in network for network in self._networks):
            return True
        return scheme == "https" and _is_public(found)

    def check(self, url: str) -> None:
        """Raises InvalidRequest for a URL to which nothing may ever be sent."""
        try:
            parts = URL(url)  # as aiohttp reads it
        except ValueError:
            raise InvalidRequest("This is no URL.", param="url") from None
        host, port = parts.host, parts.port
        if parts.scheme not in ("https", "http") or not host or not port:
            raise InvalidRequest(
                "Send an https URL with a host, as in https://example.com/hook.", param="url"
            )
        if parts.user is not None or parts.password is not None:
            raise InvalidRequest("A URL of a webhook has no user and no password.", param="url")
        refusal = (
            "Webhooks go to public addresses by https. `serving.webhook_networks` allows other networks,"
            " there also by http."
        )
        if parts.scheme == "http" and not self._networks:
            raise InvalidRequest(refusal, code="address_not_allowed", param="url")
        with suppress(ValueError):
            ip_address(host)
            if not self.allow(host, parts.scheme):
                raise InvalidRequest(refusal, code="address_not_allowed", param="url")


class TargetResolver(AbstractResolver):
    """Resolves names to the addresses that are allowed by `scheme`, and to no others."""

    def __init__(self, targets: Targets, scheme: str) -> None:
        self._targets = targets
        self._scheme = scheme
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [each for each in found if self._targets.allow(each["host"], self._scheme)]
        if not allowed:
            raise OSError("its address is not allowed")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (
        address not in _GLOBAL_UNICAST or address.sixtofour is not None or address.teredo is not None
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
