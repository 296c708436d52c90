"""These commands make API keys."""

import asyncio

import typer

from deploy.command_line import DataDir, existing_installation

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command()
def renew(data_dir: DataDir = None) -> None:
    """Replace the admin key and the publishable key, if they were lost. The old ones end within seconds."""
    from deploy.local.postgres import database
    from deploy.local.prepare import describe_keys
    from schemas.database import open_async_pool
    from serving.keys import NewKeys, renew_keys

    settings = existing_installation(data_dir)

    async def run(url: str) -> NewKeys | None:
        async with open_async_pool(url, size=1) as pool:
            return await renew_keys(pool, settings)

    with database(settings) as url:
        print("\n".join(describe_keys(asyncio.run(run(url)))), end="")
