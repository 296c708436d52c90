"""`hearken …`: the command line, and its commands that run something. Imports only what the command at hand
needs, so that it answers at once.

Exit codes: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage.
"""

import asyncio
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from deploy import operate
from deploy.operate import DataDir, Json
from schemas.errors import HearkenError, StartError
from schemas.settings import Settings, load

app = typer.Typer(
    help="A chat service that learns from the people who use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MetricsPort = Annotated[int | None, typer.Option(help="Show /metrics on this port.")]


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="`starter`, a directory, or a hub id.")] = None,
    engine: Annotated[str | None, typer.Option(help="Which engine to start: embedded or vllm.")] = None,
) -> None:
    """Run everything on this machine: Postgres, engine, chat API, trainer."""
    from deploy.local.supervisor import up as run

    settings = load(host=host, port=port, data_dir=data_dir, model=model)
    if engine is not None:
        settings = load(
            **settings.model_dump(exclude={"engine"}), engine={**settings.engine.model_dump(), "kind": engine}
        )
    raise typer.Exit(run(settings, lambda line: print(line, flush=True)))


@app.command()
def serve() -> None:
    """Run one chat API process; `up` does this for you. Several may run, behind any balancer."""
    from deploy.local.prepare import create_keys, describe_keys, prepared
    from serving.app import serve as run

    with prepared(_with_own_database("Serving")) as settings:
        made = create_keys(settings)
        if settings.admin_key is None:  # else its owner knows it, and it does not belong into a log
            print("\n".join(describe_keys(made)), flush=True)
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
    from deploy.local.base_model import base_directory
    from deploy.local.prepare import prepared
    from schemas import figures, logs
    from trainer.learner import Learner
    from trainer.loop import run
    from trainer.model.distributed import ProcessGroup
    from trainer.records.metrics import training_metrics

    settings = load()
    logs.configure(settings.log_level)
    with ProcessGroup.from_environment() as group:
        if not group.is_main:  # it is told what it needs, and has no use for a database
            model = str(base_directory(settings.model))
            Learner(settings.model_copy(update={"model": model}), group).follow()
            return
        # It may be killed anywhere, so it ends where it is.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(once)))
        with prepared(settings) as settings:
            if metrics_port is not None:
                shown = training_metrics(settings.database_url or "", settings.project)
                figures.show(settings.host, metrics_port, shown)
            code = run(settings, once=once, group=group)
    raise typer.Exit(code)


@app.command()
def relay(metrics_port: MetricsPort = None) -> None:
    """Carry votes from Postgres to the Kafka broker; `up` does this for you when one is named."""
    from deploy.local.prepare import prepared_database
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
    from deploy.local.prepare import prepared_database
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
    from deploy.local.base_model import base_directory, copy_base_model

    base = base_directory(load().model)
    copy_base_model(base, directory)
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
    from deploy.simulation.simulate import SimulateOptions
    from deploy.simulation.simulate import simulate as run

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


app.add_typer(operate.app)


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
