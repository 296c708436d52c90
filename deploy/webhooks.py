"""These commands say where a project's events are sent."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from deploy.command_line import DataDir, Json, Key, Url
from deploy.operations import Connection, ask_or_do
from schemas.settings import Settings

app = typer.Typer(help="Send events to other services, as signed webhooks.", no_args_is_help=True)

Webhook = Annotated[str, typer.Argument(help="The webhook's id.")]


@app.callback()
def webhooks() -> None:
    """Send events to other services, as signed webhooks."""


@app.command("list")
def show(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the webhooks, and how they fare."""
    from feedback.webhooks import endpoints

    found = ask_or_do(
        url,
        key,
        data_dir,
        lambda service: service.ask("GET", "webhooks")["data"],
        lambda connection, settings: endpoints(connection, settings.project),
    )
    if as_json:
        print(json.dumps(found, default=str))
        return
    for each in found:
        failing = f"failing since {each['failing_since']}" if each["failing_since"] else "well"
        state = f"disabled at {each['disabled_at']}" if each["disabled_at"] else failing
        print(f"{each['id']}  {each['url']}  {' '.join(each['events']) or 'all events'}  {state}")


@app.command()
def add(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent: an https URL.")],
    event: Annotated[
        list[str] | None, typer.Option(help="A type of event, as `vote.live`; may be repeated. Default: all.")
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Send events to a URL from now on, and print the secret that signs them."""
    from pydantic import TypeAdapter

    from feedback import webhooks
    from feedback.webhook_target import Targets
    from schemas.webhooks import NewWebhook
    from schemas.wire import check

    new = check(TypeAdapter(NewWebhook), {"url": target, "events": event or []})

    async def beside(connection: Connection, settings: Settings) -> dict[str, Any]:
        Targets(settings.serving.webhook_networks).check(new.url)
        return await webhooks.add(connection, settings.project, new)

    found = ask_or_do(
        url, key, data_dir, lambda service: service.ask("POST", "webhooks", body=new.model_dump()), beside
    )
    if as_json:
        print(json.dumps(found, default=str))
        return
    print(f"{found['id']} gets {' '.join(found['events']) or 'all events'}.")
    print(f"Its secret, which is shown this once: {found['secret']}")


@app.command()
def remove(webhook: Webhook, url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Send nothing more to a webhook, and forget its deliveries."""
    from feedback.webhooks import delete

    ask_or_do(
        url,
        key,
        data_dir,
        lambda service: service.ask("DELETE", f"webhooks/{webhook}"),
        lambda connection, settings: delete(connection, settings.project, webhook),
    )
    print(f"{webhook} is removed.")


@app.command("enable")
def enable(webhook: Webhook, url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Send to a webhook again that had failed for too long."""
    from feedback.webhooks import enable

    ask_or_do(
        url,
        key,
        data_dir,
        lambda service: service.ask("POST", f"webhooks/{webhook}/enable"),
        lambda connection, settings: enable(connection, settings.project, webhook),
    )
    print(f"{webhook} is enabled.")


@app.command("replay")
def replay(
    webhook: Webhook,
    since: Annotated[datetime, typer.Option(help="From this time on, UTC.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Send all events since a time again, delivered or not, under the same ids."""
    from feedback.webhooks import replay

    moment = since.replace(tzinfo=UTC)
    count = ask_or_do(
        url,
        key,
        data_dir,
        lambda service: service.ask("POST", f"webhooks/{webhook}/replay", body={"since": moment.isoformat()})[
            "replayed"
        ],
        lambda connection, settings: replay(connection, settings.project, webhook, moment),
    )
    print(f"{count} deliveries are sent again.")


@app.command("deliveries")
def deliveries(
    webhook: Webhook,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Deliveries that are listed.")] = 20,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the deliveries of a webhook, newest first, and what came of them."""
    from feedback.webhooks import deliveries

    found = ask_or_do(
        url,
        key,
        data_dir,
        lambda service: service.ask("GET", f"webhooks/{webhook}/deliveries", {"limit": limit})["data"],
        lambda connection, settings: deliveries(connection, settings.project, webhook, limit, None),
    )
    if as_json:
        print(json.dumps(found, default=str))
        return
    for each in found:
        tries = f"{each['attempts']:2} attempts"
        print(f"{each['id']}  {each['type']:18} {each['state']:9}  {tries}  {each['error'] or ''}")
