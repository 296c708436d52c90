"""Prometheus metrics of the API process, in one registry per application.

Counters that alerts select by label are exported as 0 from the start: Prometheus sees no increase in a series
whose first sample is 1.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from schemas.database_metrics import with_old_name
from schemas.errors import Reason, RequestError

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


class RenamedMetric(Collector):
    """Exports `metric` under its name and under the name that it had in the release before."""

    def __init__(self, metric: Gauge | Histogram, old_name: str, registry: CollectorRegistry) -> None:
        self._metric = metric
        self._old_name = old_name
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        for metric in self._metric.collect():
            yield from with_old_name(metric, self._old_name)


class Metrics:
    """The metrics that request handlers write."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "hearken_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "hearken_request_seconds",
            "Time to the end of the response, seconds.",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.refused = Counter(
            "hearken_requests_refused",
            "Requests and websocket messages answered with an error, by its code.",
            ["code"],
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "hearken_requests_in_flight", "Chat requests being answered.", registry=None
        )
        RenamedMetric(self.requests_in_flight, "hearken_streams", registry)
        self.time_to_first_token = Histogram(
            "hearken_time_to_first_token_seconds",
            "Time to a reply's first token, seconds.",
            buckets=_BUCKETS,
            registry=None,
        )
        RenamedMetric(self.time_to_first_token, "hearken_first_token_seconds", registry)
        self.tokens = Counter("hearken_tokens", "Tokens of completed turns.", ["kind"], registry=registry)
        self.replies = Counter(
            "hearken_replies", "Replies completed.", ["project", "policy"], registry=registry
        )
        self.key_usage = Counter(
            "hearken_key_usage",
            "What was asked with each key: chats, votes, other requests, refused ones, and tokens.",
            ["project", "key", "what"],
            registry=registry,
        )
        self.live_sockets = Gauge("hearken_live_sockets", "Open websockets.", registry=registry)
        self.feedback = Counter("hearken_feedback", "Votes made durable.", ["type"], registry=registry)
        self.vote_seconds = Histogram(
            "hearken_vote_seconds",
            "Time until a vote was durable, by HTTP or websocket, seconds.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.votes_failed = Counter(
            "hearken_votes_failed", "Votes that could not be made durable.", registry=registry
        )
        self.spooled = Gauge(
            "hearken_spooled_bytes", "Turns and votes that wait for Postgres, bytes.", registry=registry
        )
        self.spooled_aside = Gauge(
            "hearken_spooled_aside_bytes",
            "Votes that wait for turns that another replica's disk may hold, bytes.",
            registry=registry,
        )
        self.spooled_refused = Counter(
            "hearken_spooled_refused",
            "Turns and votes that waited for Postgres and then did not fit what is stored.",
            registry=registry,
        )
        self.exports = Counter(
            "hearken_exports",
            "Files of the scheduled export: written, or failed.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("written", "failed"):
            self.exports.labels(outcome)
        self.webhooks = Counter(
            "hearken_webhook_attempts",
            "Attempts to deliver a webhook: delivered, to be retried, or given up.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("delivered", "retried", "failed"):
            self.webhooks.labels(outcome)
        self._add_policy_metrics(registry)

    def _add_policy_metrics(self, registry: CollectorRegistry) -> None:
        self.policy_swaps = Counter(
            "hearken_policy_swaps", "Changes of the live policy.", ["project"], registry=registry
        )
        self.policies_rejected = Counter(
            "hearken_policies_rejected", "Policies rejected.", ["reason"], registry=registry
        )
        for reason in get_args(Reason):
            self.policies_rejected.labels(reason)
        self.rollouts_decided = Counter(
            "hearken_rollouts_decided",
            "Rollouts that went on with another share, were promoted or rolled back, or ended without a"
            " verdict.",
            ["action"],
            registry=registry,
        )
        for action in ("advance", "promote", "rollback", "end"):
            self.rollouts_decided.labels(action)
        self.live_policy = Gauge(
            "hearken_live_policy", "1 for the policy that is live.", ["project", "policy"], registry=registry
        )
        self.policies_unserved = Gauge(
            "hearken_policies_unserved",
            "Policies that a route needs and no engine in rotation serves.",
            registry=registry,
        )
        self.policies_damaged = Gauge(
            "hearken_policies_damaged",
            "Policies in use whose files are no longer what was published.",
            registry=registry,
        )
        self.adapters_replaced = Counter(
            "hearken_adapters_replaced",
            "Adapters that were found to be something else than was loaded, and taken from an engine.",
            registry=registry,
        )
        self.engines_in_rotation = Gauge(
            "hearken_engines_in_rotation",
            "Engines that are healthy and serve their policies correctly.",
            registry=registry,
        )

    def count_export(self, outcome: str) -> None:
        self.exports.labels(outcome).inc()

    def count_webhook(self, outcome: str) -> None:
        self.webhooks.labels(outcome).inc()

    @contextmanager
    def vote(self) -> Iterator[None]:
        """Times one vote until it is durable, and counts it as failed where the service is at fault."""
        started = time.monotonic()
        try:
            yield
        except RequestError as error:
            if error.status >= 500:
                self.votes_failed.inc()
            raise
        except Exception:
            self.votes_failed.inc()
            raise
        self.vote_seconds.observe(time.monotonic() - started)

    def exposition(self) -> bytes:
        """Returns the text of `/metrics`."""
        return generate_latest(self.registry)
