"""Placement assigns the adapters of each project to some of the engines, by rendezvous hashing (Thaler and
Ravishankar 1998): every process finds the same engines, and an engine that comes or goes moves only its own.

While all adapters fit into the memory of one engine, each engine has all. Beyond that each has fewer, but
every project stays on at least two. Engines page what still does not fit, so no placement is ever refused.
"""

import hashlib
from collections.abc import Iterable, Sequence

from schemas.policies import BASE, project_of
from serving.replica import Replica

_MIN_ENGINES = 2  # engines of a project where there are as many: one may fail


def engines_per_project(engines: int, adapters: int, capacity: int) -> int:
    """Returns how many of the `engines` hold each project, if there are `adapters` to serve and an engine has
    `capacity` of them in memory."""
    fitting = engines * capacity // max(adapters, 1)
    return min(engines, max(_MIN_ENGINES, fitting))


def assigned(replicas: Sequence[Replica], adapter: str, count: int) -> list[Replica]:
    """Returns the `count` replicas that hold an adapter: all of them for the base, which every project has,
    else those of its project."""
    if adapter == BASE or count >= len(replicas):
        return list(replicas)
    return ranked(replicas, project_of(adapter))[:count]


def ranked(replicas: Iterable[Replica], key: str) -> list[Replica]:
    """Returns the replicas in the order of their rendezvous hash with a key."""
    return sorted(replicas, key=lambda replica: _weight(replica.engine.url, key), reverse=True)


def _weight(url: str, key: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{key}".encode(), digest_size=8).digest()
