"""What operators read and change, over a service's HTTP API or beside its database: both give the same
answers, as both call `serving.console`."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import quote

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from deploy.command_line import with_database
from schemas.errors import HearkenError, StartError
from schemas.settings import Settings

if TYPE_CHECKING:  # the service's modules are loaded by the commands that need them
    from serving.console.rollouts import Action
    from serving.rollout import Trial

COMMAND_LINE = "the command line"
"""Who changes something beside the database, in the record."""

T = TypeVar("T")
Connection = AsyncConnection[DictRow]


class Operations(Protocol):
    """One project of an installation."""

    def status(self) -> dict[str, Any]: ...

    def rounds(self, limit: int) -> list[dict[str, Any]]: ...

    def report(self, round: int) -> dict[str, Any]: ...

    def policy(self, policy: str) -> dict[str, Any]: ...

    def rollouts(self) -> list[dict[str, Any]]: ...

    def preview(
        self, action: "Action", policy: str | None, share: float, mode: "Trial | None" = None
    ) -> dict[str, Any]: ...

    def start(self, policy: str, share: float | None, mode: "Trial | None") -> None: ...

    def promote(self, policy: str, reason: str | None = None) -> None: ...

    def rollback(self, policy: str, reason: str) -> None: ...

    def held(self, user: str) -> dict[str, Any]: ...

    def erase(self, user: str) -> dict[str, Any]: ...

    def erasures(self) -> list[dict[str, Any]]: ...

    def erasure(self, id: str) -> dict[str, Any]: ...

    def receipt_key(self) -> str: ...


class OverHttp:
    """The operations of a running service. Raises HearkenError with the service's own words."""

    def __init__(self, url: str, key: str) -> None:
        import httpx

        self._client = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=120,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def status(self) -> dict[str, Any]:
        return self.ask("GET", "console/status")

    def rounds(self, limit: int) -> list[dict[str, Any]]:
        return self._list("console/rounds", limit=limit)

    def report(self, round: int) -> dict[str, Any]:
        return self.ask("GET", f"console/rounds/{round}")

    def policy(self, policy: str) -> dict[str, Any]:
        return self.ask("GET", f"console/policies/{policy}")

    def rollouts(self) -> list[dict[str, Any]]:
        return self._list("console/rollouts")

    def preview(
        self, action: "Action", policy: str | None, share: float, mode: "Trial | None" = None
    ) -> dict[str, Any]:
        about = {"action": action, "share": share, "policy": policy, "mode": mode}
        given = {name: value for name, value in about.items() if value is not None}
        return self.ask("GET", "console/rollouts/preview", given)

    def start(self, policy: str, share: float | None, mode: "Trial | None") -> None:
        self.ask("POST", "rollouts", body={"policy": policy, "share": share, "mode": mode})

    def promote(self, policy: str, reason: str | None = None) -> None:
        self.ask("POST", f"policies/{policy}/promote", body={"reason": reason} if reason else None)

    def rollback(self, policy: str, reason: str) -> None:
        self.ask("POST", f"policies/{policy}/rollback", body={"reason": reason})

    def held(self, user: str) -> dict[str, Any]:
        found = self.ask("GET", f"users/{quote(user, safe='')}")
        return {**found, "turns": len(found["turns"]), "votes": len(found["votes"])}

    def erase(self, user: str) -> dict[str, Any]:
        return self.ask("DELETE", f"users/{quote(user, safe='')}")

    def erasures(self) -> list[dict[str, Any]]:
        return self._list("erasures")

    def erasure(self, id: str) -> dict[str, Any]:
        return self.ask("GET", f"erasures/{quote(id, safe='')}")

    def receipt_key(self) -> str:
        return str(self.ask("GET", "erasures/key")["public_key"])

    def _list(self, path: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", path, query)["data"]
        return found

    def ask(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        import httpx

        try:
            answer = self._client.request(method, f"/v1/{path}", params=query, json=body)
            found: dict[str, Any] = answer.json()
        except httpx.HTTPError as error:
            raise HearkenError(f"{self._client.base_url} does not answer: {error}.") from None
        except ValueError:
            raise HearkenError(f"{self._client.base_url} is no Hearken: it answered no JSON.") from None
        if answer.is_error:
            raise HearkenError(_message(found) or f"{self._client.base_url} answered {answer.status_code}.")
        return found


def _message(body: Any) -> str | None:
    """Returns what an error in OpenAI's envelope says; None of another body, as a proxy's."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error["message"]) if isinstance(error, dict) and "message" in error else None


class BesideDatabase:
    """The operations of the installation in a data folder, or of the database of the settings."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir

    def status(self) -> dict[str, Any]:
        from serving.console.status import status

        return self.run(lambda connection, settings: status(connection, settings, settings.project))

    def rounds(self, limit: int) -> list[dict[str, Any]]:
        from serving.console.rounds import rounds

        return self.run(lambda connection, settings: rounds(connection, settings.project, limit))

    def report(self, round: int) -> dict[str, Any]:
        from serving.console.rounds import report

        return self.run(lambda connection, settings: report(connection, settings.project, round))

    def policy(self, policy: str) -> dict[str, Any]:
        from serving.console.policies import policy as read

        return self.run(lambda connection, settings: read(connection, settings.project, policy))

    def rollouts(self) -> list[dict[str, Any]]:
        from serving.console.rollouts import rollouts

        return self.run(lambda connection, settings: rollouts(connection, settings.project))

    def preview(
        self, action: "Action", policy: str | None, share: float, mode: "Trial | None" = None
    ) -> dict[str, Any]:
        from serving.console.rollouts import preview

        return self.run(
            lambda connection, settings: preview(
                connection,
                settings.project,
                action,
                policy,
                settings.serving.base_share,
                share,
                mode or "canary",
            )
        )

    def start(self, policy: str, share: float | None, mode: "Trial | None") -> None:
        raise StartError(
            "Only a running service can load a policy to try it: give --url, and HEARKEN_ADMIN_KEY."
        )

    def promote(self, policy: str, reason: str | None = None) -> None:
        from deploy.promotion import promote

        self.run(lambda connection, settings: promote(connection, settings.project, policy, reason))

    def rollback(self, policy: str, reason: str) -> None:
        from serving.rollout import rollback_policy

        self.run(
            lambda connection, settings: rollback_policy(
                connection, settings.project, policy, reason, actor=COMMAND_LINE
            )
        )

    def held(self, user: str) -> dict[str, Any]:
        from feedback import held_data

        async def read(connection: Connection, settings: Settings) -> dict[str, Any]:
            raters = await _pseudonyms(connection, settings.project, user)
            return await held_data.summary(connection, settings.project, raters)

        return self.run(read)

    def erase(self, user: str) -> dict[str, Any]:
        from feedback import erasures

        async def ask(connection: Connection, settings: Settings) -> dict[str, Any]:
            raters = await _pseudonyms(connection, settings.project, user)
            id = await erasures.ask(connection, settings.project, raters, "command line", user)
            return erasures.shown(await erasures.find(connection, settings.project, id))

        return self.run(ask)

    def erasures(self) -> list[dict[str, Any]]:
        from feedback import erasures

        async def read(connection: Connection, settings: Settings) -> list[dict[str, Any]]:
            return [erasures.shown(each) for each in await erasures.newest(connection, settings.project, 200)]

        return self.run(read)

    def erasure(self, id: str) -> dict[str, Any]:
        from feedback import erasures

        async def read(connection: Connection, settings: Settings) -> dict[str, Any]:
            return erasures.shown(await erasures.find(connection, settings.project, id))

        return self.run(read)

    def receipt_key(self) -> str:
        from feedback.receipt import public_key, signing_key

        async def read(connection: Connection, settings: Settings) -> str:
            return public_key(await signing_key(connection))

        return self.run(read)

    def run(self, work: Callable[[Connection, Settings], Awaitable[T]]) -> T:
        return with_database(self._data_dir, work)


async def _pseudonyms(connection: Connection, project: str, user: str) -> list[str]:
    from serving.keys import ensure_signing_secret
    from serving.token_signer import TokenSigner

    return TokenSigner(await ensure_signing_secret(connection)).pseudonyms(project, user)
