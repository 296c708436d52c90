"""Access is how a command reaches an installation, from anywhere or beside the database, and how it
prints."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from deploy.command_line import DataDir, Json, Key, Project, Url
from deploy.operations import Connection, OverHttp, ask_or_do
from schemas.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """The options of commands that ask a service with `--url` and a key, or else the database."""

    url: Url = None
    key: Key = None
    data_dir: DataDir = None
    as_json: Json = False

    def ask_or_do(
        self, ask: Callable[[OverHttp], T], do: Callable[[Connection, Settings], Awaitable[T]]
    ) -> T:
        """Returns what the service answers, or what `do` does beside the database."""
        return ask_or_do(self.url, self.key, self.data_dir, ask, do)


@dataclass(frozen=True, slots=True)
class ProjectAccess(Access):
    """The same for one project."""

    project: Project = None
