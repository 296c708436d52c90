"""Settings keep reading the names that their fields had in older releases.

One validator serves every source: `hearken.toml`, environment variables, flags, and the configuration in the
manifest of an older policy. An old name is reported once per process, with the new one.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

log = logging.getLogger("settings")
"""A logger of the standard library: before structlog is configured, it writes to standard error."""

_reported: set[str] = set()


class RenamedFields(BaseModel):
    """Base of a settings section. `section` is its dotted path; `renamed` maps old field names to new ones;
    `removed` maps names without a successor to the reason; `newer` are fields without a part in what
    fingerprints stand for."""

    model_config = ConfigDict(extra="forbid")

    section: ClassVar[str]
    renamed: ClassVar[Mapping[str, str]] = {}
    removed: ClassVar[Mapping[str, str]] = {}
    newer: ClassVar[set[str]] = set()

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        """Raises ValueError when a setting is given under both names."""
        if not isinstance(values, Mapping):
            return values
        found = dict(values)
        for old, new in cls.renamed.items():
            if old not in found:
                continue
            if new in found:
                raise ValueError(
                    f"{cls.section}.{old} is the old name of {cls.section}.{new}: give the new one only"
                )
            found[new] = found.pop(old)
            _report(f"{cls.section}.{old} is now {cls.section}.{new}")
        for name, reason in cls.removed.items():
            if name in found:
                del found[name]
                _report(f"{cls.section}.{name} has no effect: {reason}")
        return found

    def json_with_old_names(self) -> str:
        """`model_dump_json` as older releases wrote it, for fingerprints that they stored."""
        dumped = self.model_dump_json(exclude=self.newer)
        for old, new in self.renamed.items():
            dumped = dumped.replace(f'"{new}":', f'"{old}":')
        return dumped


def accepted_names(section: type[BaseModel], field: str) -> list[str]:
    """Returns the name of a field and, after it, its old ones."""
    renamed = section.renamed if issubclass(section, RenamedFields) else {}
    return [field, *(old for old, new in renamed.items() if new == field)]


def _report(message: str) -> None:
    if message not in _reported:
        _reported.add(message)
        log.warning(message)
