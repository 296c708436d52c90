"""The commands of `hearken` by which an operator looks at an installation or changes what it does: its
policies, its training, its votes and settings. Like all commands they import only what they need.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import StartError
from schemas.settings import Settings, load

T = TypeVar("T")

app = typer.Typer()

DataDir = Annotated[Path | None, typer.Option(help="Folder of the database, policies and logs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def policies(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the policies, newest first; the arrow marks the live one."""

    async def read(connection: AsyncConnection[DictRow], settings: Settings) -> list[DictRow]:
        cursor = await connection.execute(
            "select p.id, p.parent, p.state, p.reason, p.created_at, p.live_at, r.live = p.id as answers"
            " from policies p left join routes r using (project)"
            " where project = %s order by p.created_at desc",
            [settings.project],
        )
        return await cursor.fetchall()

    rows = _with_database(data_dir, read)
    if as_json:
        print(json.dumps(rows, default=str))
        return
    for row in rows:
        mark = "→" if row["answers"] else " "
        live = f"live {row['live_at']:%Y-%m-%d %H:%M:%S}" if row["live_at"] else ""
        parent = row["parent"] or "—"
        print(f"{mark} {row['id']:14} {row['state']:12} from {parent:14} {live} {row['reason'] or ''}")


@app.command()
def promote(policy: str, data_dir: DataDir = None) -> None:
    """Make POLICY answer everybody, as soon as serving has loaded it everywhere and probed it."""
    from deploy.promotion import promote as ask

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await ask(connection, settings.project, policy)

    _with_database(data_dir, run)
    print(f"{policy} answers now.")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Kept with the policy.")] = "rolled back by an operator",
    data_dir: DataDir = None,
) -> None:
    """Take the live policy back: the one before it answers from the next request on."""
    from serving.rollout import rollback as flip

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> str:
        return (await flip(connection, settings.project, reason)).live

    print(f"{_with_database(data_dir, run)} answers now.")


@app.command()
def pause(data_dir: DataDir = None) -> None:
    """Stop training after the round at hand; chat and votes go on."""
    _set_paused(data_dir, True)
    print("Training is paused. `hearken resume` lets it go on.")


@app.command()
def resume(data_dir: DataDir = None) -> None:
    """Let training go on."""
    _set_paused(data_dir, False)
    print("Training goes on.")


@app.command()
def rebuild(policy: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Train POLICY again from what is kept of it, and compare. Exit code 0: the same, or as good as."""
    from dataclasses import asdict

    from deploy.local.prepare import prepared
    from schemas.database import open_pool
    from trainer.reproduce import rebuild as run

    with prepared(load(data_dir=data_dir)) as settings, open_pool(settings.database_url or "") as pool:
        found = run(settings, pool, policy)
    if as_json:
        print(json.dumps(asdict(found)))
    elif found.identical:
        print(f"{policy} was rebuilt, byte by byte.")
    else:
        print(
            f"{policy} was rebuilt with other bytes: its logprobs are {found.distance:.4f} nats a token off, "
            f"{found.of_replies:.4f} on replies that it learned from, "
            f"{'within' if found.alike else 'beyond'} the tolerance of {found.tolerance}."
        )
        if found.differs:
            print(f"It was made with other things: {'; '.join(found.differs)}.")
        else:
            print("It was made on this kind of machine, where the bytes should be the same.")
    raise typer.Exit(0 if found.alike else 1)


@app.command()
def export(
    layout: Annotated[
        str,
        typer.Option(
            "--format", help="jsonl (everything), or TRL's: preference, unpaired, prompt-completion."
        ),
    ] = "jsonl",
    output: Annotated[
        Path | None, typer.Option(help="A file, .jsonl or .parquet; else standard output.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the feedback, one JSON object a line or as Parquet."""
    from deploy.datasets.row_files import write_file
    from feedback.export import everything, rows
    from feedback.layouts import LAYOUTS

    known = next((name for name in LAYOUTS if name == layout), None)
    if known is None and layout != "jsonl":
        raise StartError(f"There is no format {layout}; there are jsonl, {', '.join(LAYOUTS)}.")

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        if known is not None:
            await write_file(rows(connection, settings.project, known), output)
        else:
            await write_file(everything(connection, settings.project), output)

    _with_database(data_dir, run)


@app.command("import")
def import_votes(
    file: Annotated[Path, typer.Argument(help="TRL's preference, unpaired or prompt-completion rows.")],
    rater: Annotated[str | None, typer.Option(help="Whose votes they are; else the file's name.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take the rows of FILE (.jsonl or .parquet) as votes. Rows that are broken are left out and named: exit
    code 1. To do it again does nothing twice."""
    from dataclasses import asdict

    from deploy.datasets.import_votes import import_file
    from deploy.local.prepare import create_keys, prepared

    with prepared(load(data_dir=data_dir)) as settings:
        create_keys(settings)
        report = asyncio.run(import_file(settings, file, rater or f"import:{file.name}"))
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.imported} rows imported, {report.left_out} refused.")
        for row, reason in report.refused[:20]:
            print(f"  row {row}: {reason}")
        if report.broken_off is not None:
            print(f"The rest was not read: {report.broken_off}")
    raise typer.Exit(0 if report.complete else 1)


@app.command("dead-letters")
def dead_letters(
    retry: Annotated[bool, typer.Option("--retry", help="Give them to the trainer again first.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the events that could not be read or kept, and why. Exit code 1: there are some."""
    from dataclasses import asdict

    from deploy.local.postgres import database
    from schemas.database import open_pool
    from trainer.data.dead_letters import dead_letters as all_there_are
    from trainer.data.dead_letters import retry as give_back

    with database(_existing(data_dir)) as url, open_pool(url) as pool:
        given_back = give_back(pool) if retry else 0
        letters = all_there_are(pool)
    if as_json:
        print(json.dumps([asdict(letter) for letter in letters], default=str))
    else:
        if retry:
            print(f"{given_back} given back, {len(letters)} left.")
        for letter in letters:
            place = f"{letter.log}:{letter.partition} before {letter.position}"
            print(f"{letter.created_at:%Y-%m-%d %H:%M:%S}  {place}: {letter.reason}\n  {letter.payload}")
    raise typer.Exit(1 if letters else 0)


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show every setting, its value and where it came from, and check what can be checked."""
    from deploy.doctor import examine

    raise typer.Exit(examine(load(data_dir=data_dir), data_dir is not None, as_json))


def _existing(data_dir: Path | None) -> Settings:
    """Settings of an installation that is there. Raises StartError."""
    settings = load(data_dir=data_dir)
    if settings.database_url is None and not (settings.data_dir / "postgres").is_dir():
        raise StartError(f"There is no Hearken in {settings.data_dir}. Name its folder with --data-dir.")
    return settings


def _set_paused(data_dir: Path | None, paused: bool) -> None:
    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await connection.execute("update projects set paused = %s where id = %s", [paused, settings.project])

    _with_database(data_dir, run)


def _with_database(
    data_dir: Path | None, work: Callable[[AsyncConnection[DictRow], Settings], Awaitable[T]]
) -> T:
    """Run `work` in one transaction on the installation's database."""
    from psycopg.rows import dict_row

    from deploy.local.postgres import database
    from schemas.database import conninfo

    settings = _existing(data_dir)

    async def run(url: str) -> T:
        async with await AsyncConnection.connect(conninfo(url), row_factory=dict_row) as connection:
            return await work(connection, settings)

    with database(settings) as url:
        return asyncio.run(run(url))
