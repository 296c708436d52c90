"""A file goes to an object store by its URL: s3://… (S3, and what is compatible with it), gs://… or az://….

Credentials, region and endpoint come from the environment, in the names of the store's own tools
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …), or from the machine that this runs on.
"""

from pathlib import Path
from typing import Any

from schemas.errors import StartError


def is_url(output: str) -> bool:
    return "://" in output


def check_store(url: str) -> None:
    """Raises StartError where a URL names no store that can be used."""
    open_store(url)


async def upload(file: Path, url: str) -> None:
    """Writes a file to its URL, where it appears when it is whole. Raises OSError, StartError."""
    place, _, name = url.rpartition("/")
    store = open_store(place)
    from obstore import put_async
    from obstore.exceptions import BaseError

    try:
        await put_async(store, name, file)
    except (BaseError, OSError) as error:
        raise OSError(f"the object store refuses it: {summary(error)}") from None


async def delete(url: str) -> None:
    """Deletes an object, if there is one. Raises OSError, StartError."""
    place, _, name = url.rpartition("/")
    store = open_store(place)
    from obstore import delete_async
    from obstore.exceptions import BaseError, NotFoundError

    try:
        await delete_async(store, name)
    except (NotFoundError, FileNotFoundError):
        return
    except (BaseError, OSError) as error:
        raise OSError(f"the object store does not delete it: {summary(error)}") from None


def open_store(url: str) -> Any:
    """Returns the store of a URL, in which names are below its path. Raises StartError."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise StartError("Object stores need obstore: pip install 'hearken[s3]'.") from None
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise StartError(f"{url} is no object store that can be used: {summary(error)}") from None


def summary(error: Exception) -> str:
    """Returns what a store's error says, without the source of its library."""
    return str(error).partition("\n\nDebug source")[0]
