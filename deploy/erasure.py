"""These commands erase a person, say how far that has come, and check receipts: from anywhere with `--url`
and a key, or beside the database."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.access import Access, Where
from deploy.command_line import option_groups
from deploy.control import Yes
from schemas.errors import HearkenError, StartError

app = typer.Typer()
erasures_app = typer.Typer(invoke_without_command=True)
app.add_typer(erasures_app, name="erasures")

_WORDS = {
    "database": "the rows are deleted",
    "exports": "the exported files are written again",
    "records": "the records of rounds no longer show them",
    "policies": "the trainer has found what learned from them",
    "rebuild": "the trainer has made it again without them",
    "files": "what takes their place is live and their files are deleted",
}


@app.command()
@option_groups
def erase(
    user: Annotated[str, typer.Argument(help="The person: a name as in chats, or a pseudonym.")],
    access: Access,
    yes: Yes = False,
) -> None:
    """Erase a person: what they wrote and voted, and what policies learned from them."""
    source = access.operations()
    held = source.held(user)
    if not access.as_json:
        learned = ", ".join(held["learned_by"]) or "no policy"
        print(f"{held['turns']} turns and {held['votes']} votes are held; {learned} learned from them first.")
        print("They are deleted for good, and what learned from them is made again without them.")
    if not yes and not sys.stdin.isatty():
        raise StartError("Nothing was erased. Say --yes to do it without a question.")
    if not yes and not typer.confirm("Erase them?"):
        raise typer.Exit(1)
    found = source.erase(user)
    print(
        json.dumps(found) if access.as_json else f"{found['id']}: see `hearken erasures show {found['id']}`."
    )


@erasures_app.callback()
@option_groups
def erasures(context: typer.Context, access: Access) -> None:
    """List the erasures, newest first."""
    if context.invoked_subcommand is not None:
        return
    found = access.operations().erasures()
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        print(f"{each['asked_at'][:19]}  {each['id']}  {_state(each)}")


@erasures_app.command()
@option_groups
def show(erasure: Annotated[str, typer.Argument(help="The erasure's id.")], access: Access) -> None:
    """Show how far an erasure has come; with --json also its receipt, once it is done."""
    found = access.operations().erasure(erasure)
    if access.as_json:
        print(json.dumps(found))
        return
    print(f"{found['id']}: {_state(found)}.")
    for step in found["steps"]:
        facts = ", ".join(
            f"{name} {_said(value)}" for name, value in step.items() if name not in ("step", "at")
        )
        print(f"  {step['at'][:19]}  {step['step']:9} {facts}")


@erasures_app.command()
@option_groups
def verify(
    receipt: Annotated[Path, typer.Argument(help="A file with the receipt, as `show --json` has it.")],
    where: Where,
    public_key: Annotated[
        str | None, typer.Option(help="The installation's key, 64 digits; default: this installation's own.")
    ] = None,
) -> None:
    """Check the signature of a receipt; with --public-key no installation is asked."""
    from feedback.receipt import verify as check

    try:
        found = json.loads(receipt.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HearkenError(f"{receipt} is no receipt: {error}.") from None
    if isinstance(found, dict) and isinstance(found.get("receipt"), dict):
        found = found["receipt"]
    check(found, public_key or where.operations().receipt_key())
    print(f"The receipt of {found['id']} is as it was signed, at {found['done_at']}.")


def _state(erasure: dict[str, Any]) -> str:
    waits = erasure["waits_for"]
    return f"running, until {_WORDS[waits]}" if waits else str(erasure["state"])


def _said(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
