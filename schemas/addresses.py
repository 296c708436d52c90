"""DNS resolution finds the engines: a host name with several addresses counts as several engines.

A headless service of Kubernetes and a scaled service of Compose name their replicas this way.
"""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

import structlog

log = structlog.get_logger()


async def resolve(urls: list[str]) -> list[str]:
    """Returns each engine's URL, in order and without duplicates. A name that does not resolve now gives
    none.

    Only http hosts are resolved: with https, the certificate is for the name."""
    found = await asyncio.gather(*map(_engines, urls))
    return list(dict.fromkeys(url for engines in found for url in engines))


async def _engines(url: str) -> list[str]:
    parts = urlsplit(url.rstrip("/"))
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost" or _is_address(host):
        return [url.rstrip("/")]
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, parts.port, type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("engine_unresolved", url=url, error=str(error))
        return []
    addresses = sorted({str(info[4][0]) for info in infos})
    suffix = f":{parts.port}" if parts.port else ""
    return [
        urlunsplit(parts._replace(netloc=(f"[{address}]" if ":" in address else address) + suffix))
        for address in addresses
    ]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
