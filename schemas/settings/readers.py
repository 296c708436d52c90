"""Where settings come from: a TOML file and environment variables, with an error that names the place.

A variable that holds a list is JSON, or plain text with commas between the items.
"""

import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from schemas.errors import StartError


class TomlFile(TomlConfigSettingsSource):
    """The settings in a TOML file. Raises StartError for one that cannot be read."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            return super()._read_file(file_path)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            place = file_path.absolute() if isinstance(file_path, Path) else file_path
            raise StartError(f"{place} is not valid TOML: {error}. Correct that place.") from None


class Environment(EnvSettingsSource):
    """The settings in environment variables. Raises StartError for one that is neither JSON nor, where a list
    is wanted, plain text."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]
        except ValueError:
            if field is not None and _is_list(field.annotation):
                return [item.strip() for item in str(value).split(",") if item.strip()]
            raise StartError(
                f"HEARKEN_{field_name.upper()} holds a section of settings: give it as JSON, "
                f"or each setting by a variable of its own, HEARKEN_{field_name.upper()}__NAME."
            ) from None


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))
