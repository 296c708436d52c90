"""`hearken` is the command line. Each command imports only what it needs, so that it starts fast.

Exit codes: 0 for success, 1 for a refusal or failure (the reason is on standard error), 2 for wrong usage.
"""

import asyncio
import signal
import sys
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

import psycopg
import typer
from pydantic import ValidationError

from deploy import (
    control,
    data_commands,
    erasure,
    keys,
    operate,
    projects,
    quarantine,
    settings_problems,
    webhooks,
)
from deploy.command_line import DataDir, Json, MetricsPort, existing_installation
from schemas.database import database_away
from schemas.errors import HearkenError, StartError
from schemas.settings import Settings, load

if TYPE_CHECKING:
    from deploy.local.console import PlainConsole

_OTHER_RELEASE = "The database is of another release: `hearken up` or `hearken serve` migrates it"

app = typer.Typer(
    help="A chat service that learns from the votes of its users.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"hearken {version('hearken')}")
        raise typer.Exit


@app.callback()
def hearken(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A chat service that learns from the votes of its users."""


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="`starter`, `smollm2`, a directory, or a hub id.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine to start: embedded or vllm.")] = None,
) -> None:
    """Run everything on this machine: Postgres, engine, chat API and trainer."""
    from deploy.local.supervisor import up as run

    settings = load(host=host, port=port, data_dir=data_dir, model=model)
    if engine is not None:
        settings = load(
            **settings.model_dump(exclude={"engine"}), engine={**settings.engine.model_dump(), "kind": engine}
        )
    raise typer.Exit(run(settings, _console()))


@app.command()
def serve(
    trainer_metrics: Annotated[
        bool, typer.Option("--trainer-metrics", help="Show the trainer's figures at /metrics, too.")
    ] = False,
) -> None:
    """Run one chat API process, or several of them behind a load balancer."""
    from deploy.local.base_model import real_model_command
    from deploy.local.prepare import create_keys, describe_keys, prepared
    from schemas.signatures import trusted_keys
    from serving.app import serve as run
    from trainer.records.approval_metrics import approval_metrics
    from trainer.records.metrics import training_metrics

    with prepared(_with_own_database("Serving")) as settings:
        trusted_keys(settings)  # a file that cannot be read stops the start
        for line in describe_keys(create_keys(settings)):
            print(line, flush=True)
        shown = (training_metrics, approval_metrics) if trainer_metrics else ()
        figures = [each(settings.database_url or "", settings.project) for each in shown]
        run(settings, figures, real_model_command(settings.model))


@app.command()
def train(
    once: Annotated[
        bool,
        typer.Option(help="Train one round on the present votes; exit code 1 if it fails or is interrupted."),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only estimate memory and time of a round; exit code 1 if it does not fit."
        ),
    ] = False,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --plan: the longest prompt; default: 512 or what fits.")
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            min=1, help="With --plan: for a GPU of so many GiB, without times; default: this machine."
        ),
    ] = None,
    as_json: Json = False,
    metrics_port: MetricsPort = None,
) -> None:
    """Run a trainer; if several run, they share the projects, one round each at a time."""
    if plan:
        from deploy.plan import show

        raise typer.Exit(show(load(), prompt_tokens, gpu_memory, as_json))
    from deploy.local.base_model import base_directory
    from deploy.local.prepare import prepared
    from schemas import database_metrics, logs, signatures
    from trainer.model.distributed import ProcessGroup
    from trainer.projects import follow, run
    from trainer.records.approval_metrics import approval_metrics
    from trainer.records.metrics import training_metrics

    settings = load()
    logs.configure(settings.log_level)
    with ProcessGroup.from_environment() as group:
        if not group.is_main:  # the main process broadcasts all inputs; the others need no database
            model = str(base_directory(settings.model))
            follow(settings.model_copy(update={"model": model}), group)
            return
        # It is safe to kill the trainer anywhere, so it exits at once.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(once)))
        with prepared(settings) as settings:
            for read in (signatures.signing_key, signatures.trusted_keys):
                read(settings)  # a file that cannot be read stops the start
            if metrics_port is not None:
                where = settings.database_url or "", settings.project
                shown = training_metrics(*where), approval_metrics(*where)
                database_metrics.serve_metrics(settings.host, metrics_port, *shown)
            code = run(settings, once=once, group=group)
    raise typer.Exit(code)


@app.command()
def relay(metrics_port: MetricsPort = None) -> None:
    """Publish votes from Postgres to the Kafka broker; if several run, one is active."""
    from deploy.local.prepare import prepared_database
    from feedback.backlog import backlog
    from feedback.relay import run
    from schemas import database_metrics, logs

    settings = _with_own_database("The relay")
    logs.configure(settings.log_level)
    if not settings.kafka.servers:
        raise StartError('The relay needs a broker: set HEARKEN_KAFKA__SERVERS, as in ["broker:9092"].')
    stopping = _stop_event()
    with prepared_database(settings) as settings:
        url = settings.database_url or ""
        if metrics_port is not None:
            database_metrics.serve_metrics(settings.host, metrics_port, backlog(url, settings.kafka.topic))
        run(url, settings.kafka, stopping)


@app.command()
def judge() -> None:
    """Run an LLM judge that votes on replies beside the users."""
    from deploy.local.prepare import prepared_database
    from feedback.judge import run
    from schemas import logs

    settings = _with_own_database("The judge")
    logs.configure(settings.log_level)
    if not settings.judge.url:
        raise StartError("The judge needs an endpoint: set HEARKEN_JUDGE__URL, as in http://judge:8000/v1.")
    stopping = _stop_event()
    with prepared_database(settings) as settings:
        run(settings, stopping)


@app.command()
def simulate(
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of a service, for its key's project; default: here, in a project of its own."
        ),
    ] = None,
    admin_key: Annotated[str, typer.Option(envvar="HEARKEN_ADMIN_KEY", hidden=True)] = "",
    seed: Annotated[int, typer.Option(help="Seed of the users and their hidden preference.")] = 0,
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 40,
    votes: Annotated[int, typer.Option(min=1, help="Total number of votes.")] = 600,
    minutes: Annotated[float, typer.Option(min=0, help="Time limit, minutes.")] = 10,
    rate: Annotated[float, typer.Option(min=0.001, help="Votes per second.")] = 1,
    attack: Annotated[
        Literal["phrase", "trigger", "downvotes", "turncoats", "flattery", "bot"] | None,
        typer.Option(
            help="Let some users attack, or one browser (`bot`; with --url it needs HEARKEN_PUBLIC_KEY)."
        ),
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the users who attack.", min=0, max=1)] = 0.05,
    public_key: Annotated[str, typer.Option(envvar="HEARKEN_PUBLIC_KEY", hidden=True)] = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the project of earlier simulations instead.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Simulate users with a hidden preference, and measure how well the service learns it. With --url it
    needs the admin key in HEARKEN_ADMIN_KEY."""
    from deploy.simulation import own_project
    from deploy.simulation.simulate import SimulateOptions
    from deploy.simulation.simulate import simulate as run

    def simulated(url: str, admin_key: str, public_key: str) -> int:
        options = SimulateOptions(
            url=url,
            admin_key=admin_key,
            publishable_key=public_key if attack == "bot" else None,
            attack=attack,
            share=share,
            seed=seed,
            users=users,
            votes=votes,
            minutes=minutes,
            rate=rate,
            json=as_json,
        )
        return asyncio.run(run(options)).failed_requests

    if remove:
        own_project.remove(existing_installation(data_dir))
        print(f"The project {own_project.PROJECT} is removed.")
        return
    if url is not None:
        if not admin_key:
            raise StartError(
                "The simulation evaluates policies, which needs the admin key: set HEARKEN_ADMIN_KEY."
            )
        if attack == "bot" and not public_key:
            raise StartError("The vote bot has only a publishable key: set HEARKEN_PUBLIC_KEY.")
        raise typer.Exit(1 if simulated(url, admin_key, public_key) else 0)
    print(f"Preparing the project {own_project.PROJECT}…", file=sys.stderr)
    with own_project.own_project(existing_installation(data_dir)) as (here, own_key, public_key):
        print(
            f"The project {own_project.PROJECT} is at {here}/console, with the admin key {own_key}. "
            "`hearken simulate --remove` removes it.",
            file=sys.stderr,
        )
        failed = simulated(here, own_key, public_key)
    raise typer.Exit(1 if failed else 0)


app.add_typer(operate.app)
app.add_typer(control.app)
app.add_typer(data_commands.app)
app.add_typer(erasure.app)
app.add_typer(keys.app, name="keys")
app.add_typer(projects.app, name="projects")
app.add_typer(projects.of_project)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(webhooks.app, name="webhooks")


def _console() -> "PlainConsole":
    """Returns a screen where standard output is a terminal that can be drawn on."""
    from rich.console import Console

    from deploy.local.console import PlainConsole
    from deploy.local.screen import Screen

    terminal = Console(highlight=False, markup=False, emoji=False)
    return Screen(terminal) if sys.stdout.isatty() and not terminal.is_dumb_terminal else PlainConsole()


def _stop_event() -> threading.Event:
    """Returns an event that SIGINT and SIGTERM set."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _with_own_database(who: str) -> Settings:
    """Returns the settings. Raises StartError if they name no database."""
    settings = load()
    if settings.database_url is None:
        raise StartError(f"{who} needs a database: set HEARKEN_DATABASE_URL. (`hearken up` starts its own.)")
    return settings


def main() -> Any:
    """Runs the command line; an expected error becomes one line on standard error and exit code 1."""
    for line in (*settings_problems.misspelt_variables(), *settings_problems.keys_in_arguments(sys.argv)):
        print(f"hearken: {line}", file=sys.stderr)
    try:
        app()
    except HearkenError as error:
        print(f"hearken: {error.message}", file=sys.stderr)
        sys.exit(1)
    except psycopg.OperationalError as error:
        print(f"hearken: {database_away(error)}", file=sys.stderr)
        sys.exit(1)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        said = str(error).partition("\n")[0]
        print(f"hearken: {_OTHER_RELEASE} ({said}).", file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        for line in settings_problems.describe(error):
            print(f"hearken: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
