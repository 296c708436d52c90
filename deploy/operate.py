"""These commands show or change the state of an installation: its policies, training and settings."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from deploy.access import Access
from deploy.command_line import (
    DataDir,
    Json,
    actor,
    add_deprecated_name,
    existing_installation,
    option_groups,
    with_database,
)
from deploy.control import checks_lines
from deploy.operations import COMMAND_LINE
from schemas.errors import StartError
from schemas.settings import Settings, load

app = typer.Typer()
policies_app = typer.Typer(invoke_without_command=True)
app.add_typer(policies_app, name="policies")

Policy = Annotated[str, typer.Argument(help="The policy's id.")]

_MOST_POLICIES = 1_000  # that are listed


@policies_app.callback()
def policies(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the policies, newest first, a thousand at the most; an arrow marks the live one."""
    if context.invoked_subcommand is not None:
        return

    async def read(connection: AsyncConnection[DictRow], settings: Settings) -> list[DictRow]:
        cursor = await connection.execute(
            "select p.id, p.parent, p.state, p.reason, p.created_at, p.live_at, p.pinned_at, p.pruned_at,"
            " p.tainted_at, p.rebuilds, r.live = p.id as answers"
            " from policies p left join routes r using (project)"
            " where project = %s order by p.created_at desc limit %s",
            [settings.project, _MOST_POLICIES],
        )
        return await cursor.fetchall()

    rows = with_database(data_dir, read)
    if as_json:
        print(json.dumps(rows, default=str))
        return
    for row in rows:
        mark = "→" if row["answers"] else " "
        live = f"live {row['live_at']:%Y-%m-%d %H:%M:%S}" if row["live_at"] else ""
        parent = row["parent"] or "—"
        kept = "pruned" if row["pruned_at"] else "pinned" if row["pinned_at"] else ""
        erased = "tainted" if row["tainted_at"] else f"rebuilds {row['rebuilds']}" if row["rebuilds"] else ""
        words = filter(None, [live, kept, erased, row["reason"]])
        print(f"{mark} {row['id']:14} {row['state']:12} from {parent:14} {' '.join(words)}")


@policies_app.command("show")
@option_groups
def show_policy(policy: Policy, access: Access) -> None:
    """Show a policy: the gate's verdict in words, its figures with their limits, and its lineage."""
    found = access.operations().policy(policy)
    if access.as_json:
        print(json.dumps(found))
        return
    print(f"{found['id']}: {found['state']}, from {found['parent'] or 'nothing'}. {found['headline']}")
    lines = [f"  - {doubt}" for doubt in found["doubts"]] + checks_lines(found["checks"])
    lines.append("Trained from " + (" ← ".join(found["ancestors"]) or "nothing"))
    print("\n".join(lines))


@app.command()
def promote(
    policy: Policy,
    reason: Annotated[
        str | None, typer.Option(help="Stored; brings back what was rolled back or refused.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a policy live for all requests, after every replica has loaded and verified it."""
    from deploy.promotion import promote as request_promotion

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await request_promotion(connection, settings.project, policy, reason)

    with_database(data_dir, run)
    print(f"{policy} is live.")


@app.command()
def sign(
    unsigned: Annotated[
        bool,
        typer.Option(
            "--unsigned", help="Also what no trusted key has signed: of a release that signed nothing."
        ),
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Sign all policies with the present key, after it was replaced. Exit code 1 if one was refused."""
    from deploy.local.prepare import prepared
    from schemas import signatures
    from schemas.database import open_pool
    from schemas.policies import base_digest
    from trainer.records.resign import sign_again

    with prepared(existing_installation(data_dir)) as settings:
        key, trusted = signatures.signing_key(settings), signatures.trusted_keys(settings)
        if key is None:
            raise StartError("There is no key to sign with: set HEARKEN_SIGNING__KEY_FILE.")
        base = base_digest(Path(settings.model))
        with open_pool(settings.database_url or "", size=2) as pool:
            found = sign_again(pool, key, base, trusted, unsigned=unsigned, actor=actor())
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print(f"{len(found.signed)} policies are signed now, {found.kept} were signed by this key already.")
        for message in found.refused.values():
            print(f"  refused: {message}")
    raise typer.Exit(1 if found.refused else 0)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Stored with the policy.")] = "rolled back by an operator",
    data_dir: DataDir = None,
) -> None:
    """Roll the live policy back: the previous one answers from the next request on."""
    from serving.rollout import rollback as flip

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> str:
        return (await flip(connection, settings.project, reason, actor=COMMAND_LINE)).live

    print(f"{with_database(data_dir, run)} is live.")


@app.command()
def reinstate(
    policy: Policy,
    reason: Annotated[str, typer.Option(help="Stored with the policy.")] = "reinstated by an operator",
    data_dir: DataDir = None,
) -> None:
    """Retire a policy that was rejected or rolled back, so that it can be promoted or a canary again."""
    from serving.rollout import reinstate as retire

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await retire(connection, settings.project, policy, reason)

    with_database(data_dir, run)
    print(f"{policy} is retired. `hearken promote {policy}` makes it live.")


@app.command()
def pin(policy: Policy, data_dir: DataDir = None) -> None:
    """Keep a policy's files whatever its age (see trainer.keep_policies)."""
    _set_pinned(data_dir, policy, True)
    print(f"{policy} is pinned.")


@app.command()
def unpin(policy: Policy, data_dir: DataDir = None) -> None:
    """Let the trainer prune a policy when it is old."""
    _set_pinned(data_dir, policy, False)
    print(f"{policy} is not pinned.")


@app.command()
def pause(data_dir: DataDir = None) -> None:
    """Pause training after the current round; chat and votes continue."""
    _set_paused(data_dir, True)
    print("Training is paused. `hearken resume` continues it.")


@app.command()
def resume(data_dir: DataDir = None) -> None:
    """Resume training."""
    _set_paused(data_dir, False)
    print("Training continues.")


@app.command()
def reproduce(policy: Policy, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Train a policy again from its stored inputs and compare the two; exit code 1 beyond the tolerance."""
    from deploy.local.prepare import prepared
    from schemas import logs
    from schemas.database import open_pool
    from trainer.reproduce import reproduce as run

    logs.configure("warning")
    with prepared(load(data_dir=data_dir)) as settings, open_pool(settings.database_url or "") as pool:
        result = run(settings, pool, policy)
    if as_json:
        print(json.dumps(asdict(result)))
    elif result.identical:
        print(f"{policy} was reproduced byte by byte.")
    else:
        print(
            f"{policy} was reproduced with other bytes: its log-probabilities differ by"
            f" {result.probe_distance:.4f} nats a token on the probe and by {result.reply_distance:.4f}"
            f" on replies of its last step, {'within' if result.equivalent else 'beyond'} the tolerance"
            f" of {result.tolerance}."
        )
        if result.differs:
            print(f"Different from the original training: {'; '.join(result.differs)}.")
        else:
            print("The original was trained on the same kind of machine, where the bytes should be equal.")
    raise typer.Exit(0 if result.equivalent else 1)


add_deprecated_name(app, "rebuild", "reproduce", reproduce)


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show each setting with its source, and check disk, model, database, broker and engines."""
    from deploy.doctor import examine

    raise typer.Exit(examine(load(data_dir=data_dir), data_dir is not None, as_json))


def _set_pinned(data_dir: Path | None, policy: str, pinned: bool) -> None:
    from serving.rollout import set_pinned

    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await set_pinned(connection, settings.project, policy, pinned)

    with_database(data_dir, run)


def _set_paused(data_dir: Path | None, paused: bool) -> None:
    async def run(connection: AsyncConnection[DictRow], settings: Settings) -> None:
        await connection.execute("update projects set paused = %s where id = %s", [paused, settings.project])

    with_database(data_dir, run)
