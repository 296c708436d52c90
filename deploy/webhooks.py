"""These commands say where a project's events are sent."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from deploy.access import Access, Where
from deploy.command_line import option_groups
from deploy.operations import Connection
from schemas.settings import Settings

app = typer.Typer(help="Send events to other services, as signed webhooks.", no_args_is_help=True)

Webhook = Annotated[str, typer.Argument(help="The webhook's id.")]


@app.callback()
def webhooks() -> None:
    """Send events to other services, as signed webhooks."""


@app.command("list")
@option_groups
def show(access: Access) -> None:
    """List the webhooks, and how they fare."""
    from feedback.webhooks import endpoints

    found = access.ask_or_do(
        lambda service: service.ask("GET", "webhooks")["data"],
        lambda connection, settings: endpoints(connection, settings.project),
    )
    if access.as_json:
        print(json.dumps(found, default=str))
        return
    for each in found:
        failing = f"failing since {each['failing_since']}" if each["failing_since"] else "well"
        state = f"disabled at {each['disabled_at']}" if each["disabled_at"] else failing
        print(f"{each['id']}  {each['url']}  {' '.join(each['events']) or 'all events'}  {state}")


@app.command()
@option_groups
def add(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent: an https URL.")],
    access: Access,
    event: Annotated[
        list[str] | None, typer.Option(help="A type of event, as `vote.live`; may be repeated. Default: all.")
    ] = None,
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

    found = access.ask_or_do(lambda service: service.ask("POST", "webhooks", body=new.model_dump()), beside)
    if access.as_json:
        print(json.dumps(found, default=str))
        return
    print(f"{found['id']} gets {' '.join(found['events']) or 'all events'}.")
    print(f"Its secret, which is shown this once: {found['secret']}")


@app.command()
@option_groups
def remove(webhook: Webhook, where: Where) -> None:
    """Send nothing more to a webhook, and forget its deliveries."""
    from feedback.webhooks import delete

    where.ask_or_do(
        lambda service: service.ask("DELETE", f"webhooks/{webhook}"),
        lambda connection, settings: delete(connection, settings.project, webhook),
    )
    print(f"{webhook} is removed.")


@app.command("enable")
@option_groups
def enable(webhook: Webhook, where: Where) -> None:
    """Send to a webhook again that had failed for too long."""
    from feedback.webhooks import enable

    where.ask_or_do(
        lambda service: service.ask("POST", f"webhooks/{webhook}/enable"),
        lambda connection, settings: enable(connection, settings.project, webhook),
    )
    print(f"{webhook} is enabled.")


@app.command("replay")
@option_groups
def replay(
    webhook: Webhook,
    since: Annotated[datetime, typer.Option(help="From this time on, UTC.")],
    where: Where,
) -> None:
    """Send all events since a time again, delivered or not, under the same ids."""
    from feedback.webhooks import replay

    moment = since.replace(tzinfo=UTC)
    count = where.ask_or_do(
        lambda service: service.ask("POST", f"webhooks/{webhook}/replay", body={"since": moment.isoformat()})[
            "replayed"
        ],
        lambda connection, settings: replay(connection, settings.project, webhook, moment),
    )
    print(f"{count} deliveries are sent again.")


@app.command("deliveries")
@option_groups
def deliveries(
    webhook: Webhook,
    access: Access,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Deliveries that are listed.")] = 20,
) -> None:
    """List the deliveries of a webhook, newest first, and what came of them."""
    from feedback.webhooks import deliveries

    found = access.ask_or_do(
        lambda service: service.ask("GET", f"webhooks/{webhook}/deliveries", {"limit": limit})["data"],
        lambda connection, settings: deliveries(connection, settings.project, webhook, limit, None),
    )
    if access.as_json:
        print(json.dumps(found, default=str))
        return
    for each in found:
        tries = f"{each['attempts']:2} attempts"
        print(f"{each['id']}  {each['type']:18} {each['state']:9}  {tries}  {each['error'] or ''}")
