"""These commands make, change and end API keys: from anywhere with `--url` and an admin key, or beside the
database."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from deploy.access import ProjectAccess
from deploy.command_line import DataDir, option_groups, with_database
from schemas.errors import StartError
from schemas.keys import KeyChange, NewKey
from schemas.wire import check

app = typer.Typer(help="List, make, change and end API keys.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The key's id.")]


@dataclass(frozen=True, slots=True)
class KeyFields:
    """The options of what a key may have."""

    origin: Annotated[
        list[str] | None,
        typer.Option(help="Page that may use it, as https://example.com; repeatable."),
    ] = None
    quota: Annotated[
        list[str] | None,
        typer.Option(
            help="Quota a minute, of the key, a person or an address: person.tokens=2000; repeatable."
        ),
    ] = None
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires.")] = None

    def body(self) -> dict[str, Any]:
        """Returns the fields of a key that the options give. Raises StartError."""
        found: dict[str, Any] = {"origins": self.origin} if self.origin else {}
        if self.days is not None:
            try:
                found["expires_at"] = (datetime.now(UTC) + timedelta(days=self.days)).isoformat()
            except OverflowError:
                raise StartError(
                    f"--days {self.days:g}: there is no such date; a key without --days never expires."
                ) from None
        for word in self.quota or ():
            place, _, value = word.partition("=")
            of, _, what = place.partition(".")
            if not value.isdecimal():
                raise StartError(f"--quota {word}: write it as person.tokens=2000.")
            found.setdefault("quotas", {}).setdefault(of, {})[what] = int(value)
        return found


@app.callback()
def keys() -> None:
    """List, make, change and end API keys."""


@app.command("list")
@option_groups
def list_keys(access: ProjectAccess) -> None:
    """List the keys of a project, without their secrets."""
    from serving.tenants.keys import keys as read

    found = access.ask_or_do(
        lambda service: service.ask("GET", "keys")["data"],
        lambda connection, settings: read(connection, access.project or settings.project),
    )  # fmt: skip
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        ends = (
            "revoked" if each["revoked_at"] else f"until {each['expires_at']}" if each["expires_at"] else ""
        )
        print(
            f"{each['id']:24} {each['kind']:12} {','.join(each['roles']):28} {each['name'] or '':20} {ends}"
        )


@app.command()
@option_groups
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    fields: KeyFields,
    access: ProjectAccess,
    kind: Annotated[str, typer.Option(help="secret, publishable or admin.")] = "secret",
    role: Annotated[list[str] | None, typer.Option(help="chat, vote, read or operate; repeatable.")] = None,
) -> None:
    """Make a key, and print its secret, once."""
    from serving.tenants.keys import create as make

    body = {"name": name, "kind": kind, **({"roles": role} if role else {}), **fields.body()}
    new = check(TypeAdapter(NewKey), body)
    found = access.ask_or_do(
        lambda service: service.ask("POST", "keys", body=body),
        lambda connection, settings: make(connection, access.project or settings.project, new),
    )  # fmt: skip
    _print(found, access.as_json)


@app.command()
@option_groups
def change(
    id: Id,
    fields: KeyFields,
    access: ProjectAccess,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
) -> None:
    """Change a key's name, its origins, all its quotas, or when it expires."""
    from serving.tenants.keys import change as set_fields

    body = {**({"name": name} if name else {}), **fields.body()}
    said = check(TypeAdapter(KeyChange), body)
    found = access.ask_or_do(
        lambda service: service.ask("PATCH", f"keys/{id}", body=body),
        lambda connection, settings: set_fields(connection, access.project or settings.project, id, said),
    )  # fmt: skip
    _print(found, access.as_json)


@app.command()
@option_groups
def rotate(
    id: Id,
    access: ProjectAccess,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=720, help="Hours for which the secret before stays valid, too.")
    ] = 24,
) -> None:
    """Give a key a new secret, and print it, once; for a while both are valid."""
    from serving.tenants.keys import rotate as replace

    seconds = int(overlap_hours * 3600)
    found = access.ask_or_do(
        lambda service: service.ask("POST", f"keys/{id}/rotate", body={"overlap_seconds": seconds}),
        lambda connection, settings: replace(
            connection, access.project or settings.project, id, seconds, settings
        ),
    )  # fmt: skip
    _print(found, access.as_json)


@app.command()
@option_groups
def revoke(id: Id, access: ProjectAccess) -> None:
    """End a key for good; every replica refuses it within seconds."""
    from serving.tenants.keys import revoke as end

    found = access.ask_or_do(
        lambda service: service.ask("POST", f"keys/{id}/revoke"),
        lambda connection, settings: end(connection, access.project or settings.project, id),
    )  # fmt: skip
    _print(found, access.as_json)


@app.command()
def renew(data_dir: DataDir = None) -> None:
    """Replace the first keys of the project, if they were lost. The old ones end within seconds."""
    from deploy.local.prepare import describe_keys
    from serving.keys import renew_keys

    print("\n".join(describe_keys(with_database(data_dir, renew_keys))), end="")


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    state = "revoked" if found["revoked_at"] else f"may {', '.join(found['roles'])}"
    until = f", until {found['expires_at']}" if found["expires_at"] and not found["revoked_at"] else ""
    print(f"{found['id']} ({found['kind']}) {state}{until}.")
    if found.get("key"):
        print(f"Its secret, shown this once: {found['key']}")
    if found["previous_expires_at"] and not found["revoked_at"]:
        print(f"The secret before is valid until {found['previous_expires_at']}.")
