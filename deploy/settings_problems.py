"""Settings that are wrong or unknown are told in one line each: where they stand, and what was meant."""

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from schemas.settings import Settings

_PREFIX = "HEARKEN_"


def describe(error: ValidationError) -> list[str]:
    """Returns a line for each problem of the settings."""
    return [_line(problem["loc"], problem) for problem in error.errors()]


def misspelt_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns a line for each variable that is no setting, and nearly has the name of one. Others may be
    somebody else's: Kubernetes makes some for a service of this name."""
    names = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = sorted(name.upper() for name in environment if name.upper().startswith(_PREFIX))
    sections = {name.partition("__")[0]: name for name in given}
    return [
        f"{whole} is no setting; did you mean {close[0]}?"
        for head, whole in sections.items()
        if head not in names and (close := get_close_matches(head, names, n=1, cutoff=0.85))
    ]


def keys_in_arguments(words: Sequence[str]) -> list[str]:
    """Returns a line where a command's arguments hold a key, as every user of the machine can read them."""
    options = {word.partition("=")[0] for word in words} & {"--key", "--admin-key"}
    return [f"{option} shows the key to all users; set HEARKEN_ADMIN_KEY instead." for option in options]


def _line(place: tuple[int | str, ...], problem: Any) -> str:
    name = ".".join(str(part) for part in place)
    if problem["type"] != "extra_forbidden":
        return f"setting {name}{_source(place)}: {problem['msg']}"
    close = get_close_matches(str(place[-1]), list(_names(place[:-1])), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"there is no setting {name}{_source(place)}{hint}"


def _source(place: tuple[int | str, ...]) -> str:
    """Returns where the setting was given, as far as that can be seen."""
    parts = [str(part).upper() for part in place if isinstance(part, str)]
    variables = {name.upper(): name for name in os.environ}
    for length in range(len(parts), 0, -1):  # a variable may hold a whole section
        if found := variables.get(_PREFIX + "__".join(parts[:length])):
            return f" (in {found})"
    file = Path(str(Settings.model_config.get("toml_file")))
    return f" (in {file.absolute()})" if file.is_file() else ""


def _names(section: tuple[int | str, ...]) -> Iterator[str]:
    """Returns the names of the settings of a section."""
    model: type[BaseModel] = Settings
    for part in section:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return
        model = field.annotation
    yield from model.model_fields
