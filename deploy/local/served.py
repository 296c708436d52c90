"""How people are served is read from the project's database, for what would be derived from it now. An
embedded one that is not running yet runs meanwhile."""

import psycopg

from deploy.local.postgres import check_connection, database
from schemas.database import open_pool
from schemas.errors import StartError
from schemas.settings import Settings
from trainer.data.traffic import Traffic


def served(settings: Settings) -> tuple[Traffic, float | None, str | None]:
    """Returns the traffic of the settings' project, the learning rate that its last round found, and None.
    Where no database of this release answers, both are those before the first turn, and a sentence says
    why."""
    from trainer import new_inputs

    if not settings.database_url and not (settings.data_dir / "postgres").is_dir():
        return Traffic(), None, _unread(f"there is none in {settings.data_dir}")
    try:
        with database(settings) as url:
            check_connection(url)
            with open_pool(url, size=1) as pool:
                return *new_inputs.served(pool, settings.project), None
    except StartError as error:
        return Traffic(), None, _unread(error.message)
    except psycopg.Error as error:
        return Traffic(), None, _unread(str(error))


def _unread(why: str) -> str:
    why = why.partition("\n")[0].removesuffix(".")
    return f"No database was read, so these are the values before the first chat: {why}."
