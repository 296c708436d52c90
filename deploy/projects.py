"""These commands make and change projects, and show what each used and who changed what: from anywhere with
`--url` and a key, or beside the database."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from deploy.access import Access, ProjectAccess
from deploy.command_line import option_groups
from schemas.projects import NewProject, ProjectChange
from schemas.wire import check, decode

app = typer.Typer(help="List, make and change projects.", no_args_is_help=True)
of_project = typer.Typer()

Id = Annotated[str, typer.Argument(help="The project.")]


@dataclass(frozen=True, slots=True)
class ProjectFields:
    """The options of what a project sets."""

    system_prompt: Annotated[
        str | None, typer.Option(help="System prompt of chats that bring none; empty: take it away.")
    ] = None
    sampling: Annotated[
        str | None,
        typer.Option(help='Sampling defaults, as JSON: {"temperature": 0.7, "max_tokens": 300}.'),
    ] = None
    promotion: Annotated[
        str | None, typer.Option(help="direct, canary, duel, manual, or empty: as serving.promotion says.")
    ] = None
    learning: Annotated[
        str | None,
        typer.Option(
            help='What is learned, as JSON: {"groups": "least_satisfied", "criteria_weights": {"tone": 0.5},'
            ' "may_not_fall": ["safe"], "max_fall": 0.01, "tainted_policy": "replace"}; empty: as the'
            " settings say."
        ),
    ] = None
    cards: Annotated[
        bool | None,
        typer.Option("--public-cards/--private-cards", help="Whether anybody may read the policies' cards."),
    ] = None
    redaction: Annotated[
        str | None,
        typer.Option(
            help="What is replaced before it is stored: email,phone,iban,card,ip,national_id; or none; empty:"
            " as redaction.kinds. What is stored already stays."
        ),
    ] = None
    retention_days: Annotated[
        int | None,
        typer.Option(
            min=0, help="Days after which chats and their votes are deleted; 0: as retention_days says."
        ),
    ] = None

    def body(self) -> dict[str, Any]:
        """Returns the fields of a project that the options give; an empty one takes away."""
        found: dict[str, Any] = {}
        if self.system_prompt is not None:
            found["system_prompt"] = self.system_prompt or None
        if self.sampling is not None:
            found["sampling"] = decode(self.sampling) if self.sampling else {}
        if self.promotion is not None:
            found["promotion"] = self.promotion or None
        if self.learning is not None:
            found["learning"] = decode(self.learning) if self.learning else {}
        if self.cards is not None:
            found["public_cards"] = self.cards
        if self.redaction is not None:
            kinds = [] if self.redaction == "none" else self.redaction.split(",")
            found["redaction"] = kinds if self.redaction else None
        if self.retention_days is not None:
            found["retention_days"] = self.retention_days or None
        return found


@app.callback()
def projects() -> None:
    """List, make and change projects."""


@app.command("list")
@option_groups
def list_projects(access: Access) -> None:
    """List the projects."""
    from serving.tenants.projects import projects as read

    found = access.ask_or_do(
        lambda service: service.ask("GET", "projects", {"limit": 1_000})["data"],
        lambda connection, _: read(connection),
    )  # fmt: skip
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        paused = "training is paused" if each["paused"] else ""
        print(f"{each['id']:32} since {each['created_at'][:10]}  {each['promotion'] or '':8} {paused}")


@app.command()
@option_groups
def create(id: Id, fields: ProjectFields, access: Access) -> None:
    """Make a project, answered by the base at once, and print its first keys, once."""
    from serving.tenants.projects import create as make

    body = {"id": id, **fields.body()}
    new = check(TypeAdapter(NewProject), body)
    found = access.ask_or_do(
        lambda service: service.ask("POST", "projects", body=body),
        lambda connection, settings: make(connection, settings.project, new),
    )  # fmt: skip
    if access.as_json:
        print(json.dumps(found))
        return
    print(f"{found['id']} is there. Its keys, shown this once:")
    for kind, secret in found["keys"].items():
        print(f"  {kind:12} {secret}")
    print(f"Its chat is at {found['page']} of the service.")


@app.command("set")
@option_groups
def set_project(id: Id, fields: ProjectFields, access: Access) -> None:
    """Change what a project sets; show it without an option."""
    from serving.tenants.projects import change

    body = fields.body()
    said = check(TypeAdapter(ProjectChange), body)
    found = access.ask_or_do(
        lambda service: service.ask("PATCH", f"projects/{id}", body=body),
        lambda connection, _: change(connection, id, said),
    )  # fmt: skip
    print(json.dumps(found, indent=None if access.as_json else 2))


@of_project.command()
@option_groups
def usage(
    access: ProjectAccess,
    days: Annotated[int, typer.Option(min=1, max=366, help="Days, with today.")] = 30,
) -> None:
    """Show what was asked of a project by day and by key."""
    from serving.tenants.usage import span
    from serving.tenants.usage import usage as read

    until = span(None, None)[1]
    since = date.fromordinal(until.toordinal() - days + 1)
    found = access.ask_or_do(
        lambda service: service.ask("GET", "usage", {"since": str(since), "until": str(until)}),
        lambda connection, settings: read(connection, access.project or settings.project, since, until),
    )  # fmt: skip
    if access.as_json:
        print(json.dumps(found))
        return
    names = ("chats", "votes", "requests", "refused", "prompt_tokens", "completion_tokens")
    print(f"{'':24}" + "".join(f"{name.replace('_', ' '):>20}" for name in names))
    for each in (*found["days"], *found["keys"]):
        head = each.get("day") or each["name"] or each["key"]
        print(f"{head:24}" + "".join(f"{each[name]:>20}" for name in names))


@of_project.command()
@option_groups
def audit(
    access: ProjectAccess,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Entries that are listed.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only changes of this actor.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, or kind: key.created, key.")] = None,
    target: Annotated[str | None, typer.Option(help="Only changes of this key, policy, …")] = None,
) -> None:
    """Show who changed what, newest first."""
    from feedback.audit import entries
    from serving.admin import with_times

    wanted = {"actor": actor, "action": action, "target": target}

    async def read(connection: Any, settings: Any) -> list[dict[str, Any]]:
        found = await entries(connection, access.project or settings.project, limit, None, **wanted)
        return [with_times(entry) for entry in found]

    query = {"limit": limit, **{name: value for name, value in wanted.items() if value is not None}}
    found = access.ask_or_do(lambda service: service.ask("GET", "audit", query)["data"], read)
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        changed = ", ".join(each["details"])
        print(f"{each['at'][:19]}  {each['actor']:28} {each['action']:16} {each['target']}  {changed}")
