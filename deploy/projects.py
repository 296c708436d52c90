"""These commands make and change projects, and show what each used and who changed what: from anywhere with
`--url` and a key, or beside the database."""

import json
from datetime import date
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from deploy.command_line import DataDir, Json, Key, Project, Url
from deploy.operations import ask_or_do
from schemas.projects import NewProject, ProjectChange
from schemas.wire import check, decode

app = typer.Typer(help="List, make and change projects.", no_args_is_help=True)
of_project = typer.Typer()

Id = Annotated[str, typer.Argument(help="The project.")]
Prompt = Annotated[
    str | None, typer.Option(help="System prompt of chats that bring none; empty: take it away.")
]
Sampling = Annotated[
    str | None, typer.Option(help='Sampling defaults, as JSON: {"temperature": 0.7, "max_tokens": 300}.')
]
Cards = Annotated[
    bool | None,
    typer.Option("--public-cards/--private-cards", help="Whether anybody may read the policies' cards."),
]
Promotion = Annotated[
    str | None, typer.Option(help="direct, canary, duel, manual, or empty: as serving.promotion says.")
]
Redaction = Annotated[
    str | None,
    typer.Option(
        help="What is replaced before it is stored: email,phone,iban,card,ip,national_id; or none; empty: as"
        " redaction.kinds. What is stored already stays."
    ),
]
Retention = Annotated[
    int | None,
    typer.Option(
        min=0, help="Days after which chats and their votes are deleted; 0: as retention_days says."
    ),
]


@app.callback()
def projects() -> None:
    """List, make and change projects."""


@app.command("list")
def list_projects(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the projects."""
    from serving.tenants.projects import projects as read

    found = ask_or_do(
        url, key, data_dir,
        lambda service: service.ask("GET", "projects", {"limit": 1_000})["data"],
        lambda connection, _: read(connection),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    for each in found:
        paused = "training is paused" if each["paused"] else ""
        print(f"{each['id']:32} since {each['created_at'][:10]}  {each['promotion'] or '':8} {paused}")


@app.command()
def create(
    id: Id,
    system_prompt: Prompt = None,
    sampling: Sampling = None,
    promotion: Promotion = None,
    cards: Cards = None,
    redaction: Redaction = None,
    retention_days: Retention = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a project, answered by the base at once, and print its first keys, once."""
    from serving.tenants.projects import create as make

    body = {"id": id, **_change(system_prompt, sampling, promotion, cards, redaction, retention_days)}
    new = check(TypeAdapter(NewProject), body)
    found = ask_or_do(
        url, key, data_dir,
        lambda service: service.ask("POST", "projects", body=body),
        lambda connection, settings: make(connection, settings.project, new),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['id']} is there. Its keys, shown this once:")
    for kind, secret in found["keys"].items():
        print(f"  {kind:12} {secret}")
    print(f"Its chat is at {found['page']} of the service.")


@app.command("set")
def set_project(
    id: Id,
    system_prompt: Prompt = None,
    sampling: Sampling = None,
    promotion: Promotion = None,
    cards: Cards = None,
    redaction: Redaction = None,
    retention_days: Retention = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change a project's system prompt, sampling defaults or promotion; show them without an option."""
    from serving.tenants.projects import change

    body = _change(system_prompt, sampling, promotion, cards, redaction, retention_days)
    said = check(TypeAdapter(ProjectChange), body)
    found = ask_or_do(
        url, key, data_dir,
        lambda service: service.ask("PATCH", f"projects/{id}", body=body),
        lambda connection, _: change(connection, id, said),
    )  # fmt: skip
    print(json.dumps(found, indent=None if as_json else 2))


@of_project.command()
def usage(
    days: Annotated[int, typer.Option(min=1, max=366, help="Days, with today.")] = 30,
    project: Project = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what was asked of a project by day and by key."""
    from serving.tenants.usage import span
    from serving.tenants.usage import usage as read

    until = span(None, None)[1]
    since = date.fromordinal(until.toordinal() - days + 1)
    found = ask_or_do(
        url, key, data_dir,
        lambda service: service.ask("GET", "usage", {"since": str(since), "until": str(until)}),
        lambda connection, settings: read(connection, project or settings.project, since, until),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    names = ("chats", "votes", "requests", "refused", "prompt_tokens", "completion_tokens")
    print(f"{'':24}" + "".join(f"{name.replace('_', ' '):>20}" for name in names))
    for each in (*found["days"], *found["keys"]):
        head = each.get("day") or each["name"] or each["key"]
        print(f"{head:24}" + "".join(f"{each[name]:>20}" for name in names))


@of_project.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=500, help="Entries that are listed.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only changes of this actor.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, or kind: key.created, key.")] = None,
    target: Annotated[str | None, typer.Option(help="Only changes of this key, policy, …")] = None,
    project: Project = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show who changed what, newest first."""
    from feedback.audit import entries
    from serving.admin import with_times

    wanted = {"actor": actor, "action": action, "target": target}

    async def read(connection: Any, settings: Any) -> list[dict[str, Any]]:
        found = await entries(connection, project or settings.project, limit, None, **wanted)
        return [with_times(entry) for entry in found]

    query = {"limit": limit, **{name: value for name, value in wanted.items() if value is not None}}
    found = ask_or_do(url, key, data_dir, lambda service: service.ask("GET", "audit", query)["data"], read)
    if as_json:
        print(json.dumps(found))
        return
    for each in found:
        changed = ", ".join(each["details"])
        print(f"{each['at'][:19]}  {each['actor']:28} {each['action']:16} {each['target']}  {changed}")


def _change(
    system_prompt: str | None,
    sampling: str | None,
    promotion: str | None,
    cards: bool | None,
    redaction: str | None,
    retention_days: int | None,
) -> dict[str, Any]:
    """Returns the fields of a project that the options give; an empty one takes away."""
    found: dict[str, Any] = {}
    if system_prompt is not None:
        found["system_prompt"] = system_prompt or None
    if sampling is not None:
        found["sampling"] = decode(sampling) if sampling else {}
    if promotion is not None:
        found["promotion"] = promotion or None
    if cards is not None:
        found["public_cards"] = cards
    if redaction is not None:
        kinds = [] if redaction == "none" else redaction.split(",")
        found["redaction"] = kinds if redaction else None
    if retention_days is not None:
        found["retention_days"] = retention_days or None
    return found
