"""`hearken …`: the command line. Imports only what the command at hand needs, so that it answers at once.

Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage.
"""

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import ValidationError

from schemas.errors import HearkenError, StartError
from schemas.settings import Settings, load

T = TypeVar("T")

app = typer.Typer(
    help="A chat service that learns from the people who use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[Path | None, typer.Option(help="Folder of the database, policies and logs.")]
MetricsPort = Annotated[int | None, typer.Option(help="Show /metrics on this port.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="`starter`, a directory, or a hub id.")] = None,
    engine: Annotated[str | None, typer.Option(help="Which engine to start: embedded or vllm.")] = None,
) -> None:
    """Run everything on this machine: Postgres, engine, chat API, trainer."""
    from deploy.local import up as run

    settings = load(host=host, port=port, data_dir=data_dir, model=model)
    if engine is not None:
        settings = load(
            **settings.model_dump(exclude={"engine"}), engine={**settings.engine.model_dump(), "kind": engine}
        )
    raise typer.Exit(run(settings, lambda line: print(line, flush=True)))


@app.command()
def serve() -> None:
    """Run one chat API process; `up` does this for you. Several may run, behind any balancer."""
    from deploy.prepare import keys, keys_shown, prepared
    from serving.app import serve as run

    with prepared(_with_own_database("Serving")) as settings:
        made = keys(settings)
        if settings.admin_key is None:  # else its owner knows it, and it does not belong into a log
            print("\n".join(keys_shown(made)), flush=True)
        run(settings)


@app.command()
def train(
    once: Annotated[bool, typer.Option(help="One round with the votes there are.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what memory and time a round takes, and train nothing.")
    ] = False,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of the plan: the longest prompt; else 512 or what fits.")
    ] = None,
    as_json: Json = False,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the trainer; `up` does this for you. Several may run: one works, the others stand by. On several
    GPUs: accelerate launch --multi_gpu --num_processes N --module deploy.cli train. With --plan, exit code 1
    says that a round does not fit. Ended by SIGTERM: 0, but 1 with --once, whose round is not done."""
    if plan:
        from deploy.plan import show

        raise typer.Exit(show(load(), prompt_tokens, as_json))
    from deploy.base import base_directory
    from deploy.prepare import prepared
    from schemas import figures, logs
    from trainer.learner import Learner
    from trainer.loop import run
    from trainer.processes import Processes
    from trainer.progress import progress

    settings = load()
    logs.configure(settings.log_level)
    with Processes.launched() as processes:
        if not processes.first:  # it is told what it needs, and has no use for a database
            model = str(base_directory(settings.model))
            Learner(settings.model_copy(update={"model": model}), processes).follow()
            return
        # It may be killed anywhere, so it ends where it is.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(once)))
        with prepared(settings) as settings:
            if metrics_port is not None:
                shown = progress(settings.database_url or "", settings.project)
                figures.show(settings.host, metrics_port, shown)
            code = run(settings, once=once, processes=processes)
    raise typer.Exit(code)


@app.command()
def relay(metrics_port: MetricsPort = None) -> None:
    """Carry votes from Postgres to the Kafka broker; `up` does this for you when one is named."""
    from deploy.prepare import prepared_database
    from feedback.backlog import backlog
    from feedback.relay import run
    from schemas import figures, logs

    settings = _with_own_database("The relay")
    logs.configure(settings.log_level)
    if not settings.kafka.servers:
        raise StartError('The relay needs a broker: set HEARKEN_KAFKA__SERVERS, as in ["broker:9092"].')
    stopping = _stopping()
    with prepared_database(settings) as settings:
        url = settings.database_url or ""
        if metrics_port is not None:
            figures.show(settings.host, metrics_port, backlog(url, settings.kafka.topic))
        run(url, settings.kafka, stopping)


@app.command()
def judge() -> None:
    """Have a model rate replies beside the people; `up` does this for you when an endpoint is named."""
    from deploy.prepare import prepared_database
    from feedback.judge import run
    from schemas import logs

    settings = _with_own_database("The judge")
    logs.configure(settings.log_level)
    if not settings.judge.url:
        raise StartError("The judge needs an endpoint: set HEARKEN_JUDGE__URL, as in http://judge:8000/v1.")
    stopping = _stopping()
    with prepared_database(settings) as settings:
        run(settings, stopping)


@app.command()
def fetch(directory: Path) -> None:
    """Put the base model into DIRECTORY, for engines and replicas that read it from there. One that is there
    already stays as it is; another is replaced at once."""
    from deploy.base import base_directory, place

    base = base_directory(load().model)
    place(base, directory)
    print(f"{base} is in {directory}.")


@app.command()
def simulate(
    url: Annotated[str, typer.Option(help="Where Hearken answers.")] = "http://127.0.0.1:8000",
    admin_key: Annotated[str, typer.Option(envvar="HEARKEN_ADMIN_KEY", help="The admin key.")] = "",
    seed: Annotated[int, typer.Option(help="Draws the people and their hidden taste.")] = 0,
    users: Annotated[int, typer.Option(help="How many people.")] = 40,
    votes: Annotated[int, typer.Option(help="Votes they cast in all.")] = 600,
    minutes: Annotated[float, typer.Option(help="Longest time.")] = 10,
    rate: Annotated[float, typer.Option(help="Votes a second.")] = 1,
    as_json: Json = False,
) -> None:
    """Let people with a hidden taste chat and vote, and watch the service learn it."""
    from deploy.simulate import SimulateOptions
    from deploy.simulate import simulate as run

    if not admin_key:
        raise StartError("The simulation measures policies, which needs the admin key: --admin-key.")
    options = SimulateOptions(
        url=url,
        admin_key=admin_key,
        seed=seed,
        users=users,
        votes=votes,
        minutes=minutes,
        rate=rate,
        json=as_json,
    )
    report = asyncio.run(run(options))
    raise typer.Exit(1 if report.failed_requests else 0)


@app.command()
def rebuild(policy: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Train POLICY again from what is kept of it, and compare. Exit code 0: the same, or as good as."""
    from dataclasses import asdict

    from deploy.prepare import prepared
    from schemas.database import open_pool
    from trainer.rebuild import rebuild as run

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
    from deploy.rows import write_file
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


@app.command("dead-letters")
def dead_letters(
    retry: Annotated[bool, typer.Option("--retry", help="Give them to the trainer again first.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the events that could not be read or kept, and why. Exit code 1: there are some."""
    from dataclasses import asdict

    from deploy.postgres import database
    from schemas.database import open_pool
    from trainer.dead_letters import dead_letters as all_there_are
    from trainer.dead_letters import retry as give_back

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

    from deploy.exchange import import_file
    from deploy.prepare import keys, prepared

    with prepared(load(data_dir=data_dir)) as settings:
        keys(settings)
        report = asyncio.run(import_file(settings, file, rater or f"import:{file.name}"))
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.imported} rows imported, {report.left_out} refused.")
        for row, reason in report.refused[:20]:
            print(f"  row {row}: {reason}")
        if report.broken_off is not None:
            print(f"The rest was not read: {report.broken_off}")
    raise typer.Exit(0 if report.whole else 1)


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show every setting, its value and where it came from, and check what can be checked."""
    from deploy.doctor import examine

    raise typer.Exit(examine(load(data_dir=data_dir), data_dir is not None, as_json))


def _stopping() -> threading.Event:
    """Set by the signals that ask a process to end."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _with_own_database(who: str) -> Settings:
    """Settings that name a database. Raises StartError."""
    settings = load()
    if settings.database_url is None:
        raise StartError(f"{who} needs a database_url; `hearken up` brings its own Postgres.")
    return settings


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

    from deploy.postgres import database
    from schemas.database import conninfo

    settings = _existing(data_dir)

    async def run(url: str) -> T:
        async with await AsyncConnection.connect(conninfo(url), row_factory=dict_row) as connection:
            return await work(connection, settings)

    with database(settings) as url:
        return asyncio.run(run(url))


def main() -> Any:
    """The console script: errors raised on purpose become one line and exit code 1."""
    try:
        app()
    except HearkenError as error:
        print(f"hearken: {error.message}", file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"])
            print(f"hearken: setting {field}: {problem['msg']}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
