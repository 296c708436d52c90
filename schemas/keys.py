"""What an API key may do: its kind, roles and quotas, and the requests that create and change keys."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Kind = Literal["admin", "secret", "publishable"]
"""A publishable key is for browsers, so anybody may see it; the other two are secrets."""

Role = Literal["chat", "vote", "read", "operate", "admin"]
"""chat; vote; read what is stored; change what answers and how; manage keys and the project."""

KIND_ROLES: dict[Kind, frozenset[Role]] = {
    "admin": frozenset(get_args(Role)),
    "secret": frozenset({"chat", "vote", "read"}),
    "publishable": frozenset({"chat", "vote"}),
}
"""The roles of a key that was given none of its own."""

MAX_OVERLAP = 30 * 24 * 3600
"""Longest time in which a rotated key's two secrets are both valid, seconds."""

Name = Annotated[str, Field(min_length=1, max_length=80)]
Origin = Annotated[str, Field(max_length=255, pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?\z")]
PerMinute = Annotated[int, Field(ge=1, le=10**9)]

_STRICT = ConfigDict(extra="forbid", strict=True)


class Quota(BaseModel):
    """At most so many requests of each kind (chats, votes, others) and tokens a minute; none: the setting's
    requests, and any number of tokens."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    requests: PerMinute | None = None
    tokens: PerMinute | None = None


class Quotas(BaseModel):
    """The quotas of a key: of all who use it, of each person, and of each address."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: Quota = Quota()
    person: Quota = Quota()
    address: Quota = Quota()


class KeyChange(BaseModel):
    """What may be changed of a key. A field that is left out stays; null, or an empty one, takes it away."""

    model_config = _STRICT

    name: Name | None = None
    origins: Annotated[list[Origin], Field(max_length=100)] = []
    quotas: Quotas = Quotas()
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class NewKey(KeyChange):
    """A key to create. An `admin` key has every role; others have the `roles` that are given, or those of
    their kind."""

    name: Name
    kind: Kind = "secret"
    roles: Annotated[list[Role], Field(min_length=1, max_length=5)] | None = None

    @model_validator(mode="after")
    def _roles_fit_the_kind(self) -> Self:
        beyond = set(self.roles or ()) - KIND_ROLES["publishable"]
        if self.kind == "publishable" and beyond:
            raise ValueError("anybody may see a publishable key: its roles are chat and vote")
        if self.kind == "admin" and self.roles is not None:
            raise ValueError("an admin key has every role, so name none")
        if "admin" in (self.roles or ()):
            raise ValueError("the role admin is that of the kind admin")
        if self.origins and self.kind != "publishable":
            raise ValueError("only publishable keys have origins: no other is on pages")
        return self

    @property
    def granted(self) -> list[Role] | None:
        """The roles as they are stored, in order; who may operate may read."""
        if self.roles is None:
            return None
        given = {*self.roles, *(["read"] if "operate" in self.roles else [])}
        return [role for role in get_args(Role) if role in given]


class Rotation(BaseModel):
    """A key's new secret; the one before is valid for `overlap_seconds` more."""

    model_config = _STRICT

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP)] = 24 * 3600
