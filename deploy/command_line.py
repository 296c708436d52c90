"""Command-line helpers: option types, deprecated names, and access to an installation's database."""

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import StartError
from schemas.settings import Settings, load

T = TypeVar("T")

DataDir = Annotated[Path | None, typer.Option(help="Folder of the database, policies and logs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Url = Annotated[
    str | None,
    typer.Option(
        help="Address of a running service, with a key in HEARKEN_ADMIN_KEY; default: beside the database."
    ),
]
# Hidden, as what is in a command's arguments can be read by every user of the machine.
Key = Annotated[str | None, typer.Option(envvar="HEARKEN_ADMIN_KEY", hidden=True)]
Project = Annotated[
    str | None, typer.Option(help="Project, beside the database; default: that of the settings.")
]
MetricsPort = Annotated[int | None, typer.Option(help="Serve Prometheus metrics at /metrics on this port.")]


def add_deprecated_name(app: typer.Typer, old: str, new: str, command: Callable[..., None]) -> None:
    """Registers a hidden command `old` that prints a warning on standard error and runs `command`."""

    @app.command(old, hidden=True)
    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        print(f"hearken: `hearken {old}` is deprecated. Use `hearken {new}`.", file=sys.stderr)
        command(*args, **options)


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command some of whose parameters are dataclasses: each of their fields is an option, after
    the command's own, so that commands share options."""
    own: list[Parameter] = []
    shared: list[Parameter] = []
    groups: dict[str, list[str]] = {}
    types = get_type_hints(command)
    for name, parameter in signature(command).parameters.items():
        group = types[name]
        if not is_dataclass(group):
            own.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(group, include_extras=True)
        groups[name] = [each.name for each in fields(group)]
        shared += [
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
            for each in fields(group)
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: types[name](**{each: given.pop(each) for each in names}) for name, names in groups.items()
        }
        command(**given, **made)

    run.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    return run


def existing_installation(data_dir: Path | None) -> Settings:
    """Returns the settings of an installation. Raises StartError if there is none."""
    settings = load(data_dir=data_dir)
    if settings.database_url is None and not (settings.data_dir / "postgres").is_dir():
        raise StartError(f"There is no Hearken in {settings.data_dir}. Name its folder with --data-dir.")
    return settings


def with_database(
    data_dir: Path | None, work: Callable[[AsyncConnection[DictRow], Settings], Awaitable[T]]
) -> T:
    """Runs `work` in one transaction on the installation's database. The audit log has its changes under the
    name of who runs the command."""
    from psycopg.rows import dict_row

    from deploy.local.postgres import database
    from schemas.database import conninfo

    settings = existing_installation(data_dir)

    async def run(url: str) -> T:
        async with await AsyncConnection.connect(conninfo(url), row_factory=dict_row) as connection:
            await connection.execute("select set_config('hearken.actor', %s, false)", [actor()])
            await connection.commit()
            return await work(connection, settings)

    with database(settings) as url:
        return asyncio.run(run(url))


def actor() -> str:
    """Returns how the audit log names who runs this command."""
    name = str(os.getuid())
    with suppress(OSError, KeyError):  # a container's user may have no name
        name = getpass.getuser()
    return f"command:{name}"
