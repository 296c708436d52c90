"""Access is how a command reaches an installation, from anywhere or beside the database, and how it
prints."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from deploy.command_line import DataDir, Json, Key, Project, Url
from deploy.operations import BesideDatabase, Connection, Operations, OverHttp
from schemas.errors import StartError
from schemas.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Where:
    """The options of commands that ask a service with `--url` and a key, or else the database."""

    url: Url = None
    key: Key = None
    data_dir: DataDir = None

    def operations(self) -> Operations:
        """Returns the operations there. Raises StartError for a URL without a key."""
        if self.url is None:
            return BesideDatabase(self.data_dir)
        if not self.key:
            raise StartError("--url needs the admin key, in the variable HEARKEN_ADMIN_KEY.")
        return OverHttp(self.url, self.key)

    def ask_or_do(
        self, ask: Callable[[OverHttp], T], do: Callable[[Connection, Settings], Awaitable[T]]
    ) -> T:
        """Returns what the service answers, or what `do` does beside the database."""
        there = self.operations()
        if isinstance(there, OverHttp):
            with there:
                return ask(there)
        assert isinstance(there, BesideDatabase)  # noqa: S101  (there are these two)
        return there.run(do)


@dataclass(frozen=True, slots=True)
class Access(Where):
    """The same, of commands that also print for scripts."""

    as_json: Json = False


@dataclass(frozen=True, slots=True)
class ProjectAccess(Access):
    """The same for one project."""

    project: Project = None
