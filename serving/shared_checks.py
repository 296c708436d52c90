"""The serving processes share what they found on the engines: an adapter is checked once on each engine, by
the process that loads it, and the others read that it passed.

A row is removed before its adapter is loaded again, so it never stands for a load that was not checked. An
address that means another engine on another machine (loopback) is not shared.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from serving.replica import Replica

Connection = AsyncConnection[DictRow]

_KEPT = "7 days"  # after which an adapter that is new to a process is checked again


def is_shared(url: str) -> bool:
    """Returns whether every process reaches the same engine by this URL."""
    host = urlsplit(url).hostname or ""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


async def adopt(connection: Connection, adapter: str, replicas: Sequence[Replica]) -> None:
    """Takes over the checks of other processes for the replicas that have `adapter` loaded. For those that
    have not, removes what is known: they are about to load it."""
    engines = {replica.engine.url: replica for replica in replicas if is_shared(replica.engine.url)}
    if not engines:
        return
    absent = [url for url, replica in engines.items() if adapter not in replica.loaded]
    await connection.execute(
        "delete from adapter_checks where adapter = %s and engine = any(%s)", [adapter, absent]
    )
    cursor = await connection.execute(
        "select engine from adapter_checks where adapter = %s and engine = any(%s)", [adapter, list(engines)]
    )
    for row in await cursor.fetchall():
        engines[row["engine"]].verified.add(adapter)


async def record(connection: Connection, adapter: str, replicas: Iterable[Replica]) -> None:
    """Says to other processes which of these replicas passed the check of `adapter`."""
    passed = [
        replica.engine.url
        for replica in replicas
        if adapter in replica.verified and is_shared(replica.engine.url)
    ]
    if not passed:
        return
    await connection.execute(
        "insert into adapter_checks (adapter, engine) select %s, unnest(%s::text[]) on conflict do nothing",
        [adapter, passed],
    )
    await connection.execute("delete from adapter_checks where checked_at < now() - %s::interval", [_KEPT])


async def claim(
    connection: Connection, adapter: str, replicas: Sequence[Replica], seconds: float
) -> list[Replica]:
    """Returns those of the replicas, all verified, whose check of `adapter` this process is to repeat: it is
    older than `seconds`, and nobody else repeats it now. Where another process took the check back, the
    replica is no longer verified here either."""
    own = [replica for replica in replicas if not is_shared(replica.engine.url)]
    shared = {replica.engine.url: replica for replica in replicas if is_shared(replica.engine.url)}
    if not shared:
        return own
    cursor = await connection.execute(
        "with due as (update adapter_checks set checked_at = now() where adapter = %(adapter)s"
        " and engine = any(%(engines)s) and checked_at < now() - make_interval(secs => %(seconds)s)"
        " returning engine)"
        " select engine, engine in (select engine from due) as due from adapter_checks"
        " where adapter = %(adapter)s and engine = any(%(engines)s)",
        {"adapter": adapter, "engines": list(shared), "seconds": seconds},
    )
    rows = await cursor.fetchall()
    for url in shared.keys() - {row["engine"] for row in rows}:
        shared[url].verified.discard(adapter)
    return own + [shared[row["engine"]] for row in rows if row["due"]]


async def remove(connection: Connection, adapter: str, replica: Replica) -> None:
    """Says to other processes that a replica no longer passes the check of `adapter`."""
    await connection.execute(
        "delete from adapter_checks where adapter = %s and engine = %s", [adapter, replica.engine.url]
    )
