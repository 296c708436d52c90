"""The effective settings with the source of each: a default, hearken.toml, a variable, or a flag."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from schemas.settings import Settings
from schemas.settings.renamed_fields import accepted_names

_FILE = Path("hearken.toml")
_SECRET = {"admin_key", "public_key", "database_url"}


def effective_settings(settings: Settings, flags: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yields each setting with its value, source and description; `flags` are those that a flag set. Secrets
    are shown as `set`."""
    file = tomllib.loads(_FILE.read_text(encoding="utf-8")) if _FILE.is_file() else {}
    yield from _rows(settings, (), file, flags)


def _rows(
    model: BaseModel, prefix: tuple[str, ...], in_file: Any, flags: frozenset[str]
) -> Iterator[dict[str, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        names = accepted_names(type(model), name)
        in_section = in_file if isinstance(in_file, dict) else {}
        here = next((in_section[each] for each in names if each in in_section), None)
        if isinstance(value, BaseModel):
            yield from _rows(value, (*prefix, name), here, flags)
            continue
        source = "default" if here is None else str(_FILE)
        for variable in ("HEARKEN_" + "__".join((*prefix, each)).upper() for each in names):
            if variable in os.environ:
                source = variable
        full = ".".join((*prefix, name))
        secret = value is not None and (isinstance(value, SecretStr) or full in _SECRET)
        yield {
            "name": full,
            "value": "set" if secret else value,
            "source": "flag" if full in flags else source,
            "description": field.description,
        }
