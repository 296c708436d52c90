"""These commands list the raters whose votes look hostile, and decide on them: from anywhere with `--url` and
a key, or beside the database."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from deploy.access import ProjectAccess
from deploy.command_line import option_groups

app = typer.Typer(help="List raters whose votes look hostile, and decide on them.", no_args_is_help=True)

Rater = Annotated[str, typer.Argument(help="The rater's pseudonym.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it is stored, and in the audit log.")]


@app.callback()
def quarantine() -> None:
    """List raters whose votes look hostile, and decide on them."""


@app.command("list")
@option_groups
def list_raters(
    access: ProjectAccess,
    state: Annotated[
        Literal["held", "accepted", "rejected"], typer.Option(help="Only raters in this state.")
    ] = "held",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Raters that are listed.")] = 50,
) -> None:
    """List raters, the newest first, with what was found."""
    from feedback.quarantine import page
    from serving.admin import with_times

    async def read(connection: Any, settings: Any) -> list[dict[str, Any]]:
        found = await page(connection, access.project or settings.project, limit, state)
        return [with_times(each) for each in found]

    query = {"state": state, "limit": limit}
    found = access.ask_or_do(lambda service: service.ask("GET", "quarantine", query)["data"], read)
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        reasons = ", ".join(each["evidence"]) or each["reason"]
        print(f"{each['created_at'][:19]}  {each['rater']:34} {each['votes']:>6} votes  {reasons}")
    if not found:
        print(f"No rater is {state}.")


@app.command()
@option_groups
def accept(rater: Rater, reason: Why, access: ProjectAccess) -> None:
    """Let a rater's votes teach again, from the next round on."""
    _decide("accept", rater, reason, access)


@app.command()
@option_groups
def reject(rater: Rater, reason: Why, access: ProjectAccess) -> None:
    """Keep a rater's votes from teaching. They are stored all the same; `accept` takes it back."""
    _decide("reject", rater, reason, access)


def _decide(decision: Literal["accept", "reject"], rater: str, reason: str, access: ProjectAccess) -> None:
    from feedback.quarantine import decide
    from serving.tenants.quarantine import STATES, shown

    async def do(connection: Any, settings: Any) -> dict[str, Any]:
        of_project = access.project or settings.project
        return shown(await decide(connection, of_project, rater, STATES[decision], reason))

    body = {"decision": decision, "reason": reason}
    path = f"quarantine/{quote(rater, safe='')}"
    found = access.ask_or_do(lambda service: service.ask("POST", path, body=body), do)
    if access.as_json:
        print(json.dumps(found))
        return
    teach = "teach again" if decision == "accept" else "do not teach"
    print(f"{rater} is {STATES[decision]}: their {found['votes']} votes {teach}.")
