"""Settings of the chat API and of the router."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from schemas.projects import Promotion, TaintedPolicy


def _network(text: str) -> str:
    ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_network)]


class ServingSettings(BaseModel):
    """The chat API and the router."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body, bytes")
    max_choices: int = Field(8, ge=1, description="largest `n` of a request, replies")
    max_tokens: int = Field(512, ge=1, description="reply length when the request sets none, tokens")
    engine_timeout: float = Field(120, gt=0, description="longest wait for the engine's next token, seconds")
    requests_per_minute: int = Field(
        6_000, ge=1, description="rate limit of a key: chats, votes and other requests each, per minute"
    )
    address_requests_per_minute: int = Field(
        600,
        ge=1,
        description="rate limit of an address with a publishable key or without a known one: chats, votes and"
        " other requests each, per minute",
    )
    user_requests_per_minute: int = Field(
        120, ge=1, description="rate limit of a user at such an address, chats per minute"
    )
    network_votes_per_hour: int = Field(
        600,
        ge=1,
        description="rate limit of a network (IPv4: /24, IPv6: /64) with publishable keys, votes per hour;"
        " people whom a server names do not count",
    )
    websockets_per_address: int = Field(
        100, ge=1, description="websockets that one address may have open at a replica"
    )
    spool_bytes: int = Field(
        268_435_456,
        ge=0,
        description="turns and votes that wait on this machine's disk while Postgres is away, bytes; 0: none,"
        " so requests fail meanwhile",
    )
    spool_dir: Path | None = Field(
        None, description="directory where they wait, of any number of processes; none: `spool` in data_dir"
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="load balancers whose X-Forwarded-For is trusted: addresses or networks; `*`: all",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="host names that the API answers to; none: loopback's where it listens on loopback, else"
        " any",
    )
    webhook_networks: list[Network] = Field(
        default_factory=list,
        description="networks that are not public and that webhooks may go to, also by http, as in"
        " 127.0.0.0/8; empty: public addresses by https only",
    )
    base_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="people kept on the base to measure the lift, share",
    )
    promotion: Promotion = Field(
        "direct",
        description="how a candidate goes live. direct: once the gate passes, and by a canary where it cannot"
        " tell; canary: people on growing shares decide; duel: people who compare two replies decide; manual:"
        " it waits until an operator decides",
    )
    tainted_policy: TaintedPolicy = Field(
        "keep",
        description="what answers while a live policy that learned from an erased person is rebuilt: keep:"
        " itself; replace: its newest ancestor that did not",
    )
    canary_share: float = Field(
        0.5,
        gt=0,
        le=0.5,
        description="conversations in which a policy is tried that the gate could not judge, with direct"
        " promotion, share",
    )
    personal_choices: int = Field(
        4,
        ge=1,
        le=16,
        description="replies sampled for a person whose taste is known, of which the best is sent; 1: none is"
        " chosen",
    )
    pairs_per_day: int = Field(
        5,
        ge=0,
        le=100,
        description="times a day that a person is asked to compare two replies to their message, where they"
        " answer; 0: never",
    )
    scorer_url: str | None = Field(
        None,
        description="embedded engine that scores replies by people's tastes, where vLLM answers; none: the"
        " engines themselves, if they can",
    )
    ramp: list[Annotated[float, Field(gt=0, le=0.5)]] = Field(
        [0.05, 0.2, 0.5],
        min_length=1,
        max_length=10,
        description="people who try a candidate, one stage after another, with promotion by canary, shares",
    )
    rollout_margin: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="approval that a candidate may have lost at most and still be promoted; 0: it must be"
        " shown to be better, share",
    )

    @field_validator("ramp")
    @classmethod
    def _grows(cls, ramp: list[float]) -> list[float]:
        if ramp != sorted(set(ramp)):
            raise ValueError("each share must be larger than the one before")
        return ramp
