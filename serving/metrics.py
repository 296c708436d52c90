"""What operators watch, in Prometheus' terms. One registry per application.

What alerts count by label begins at 0: Prometheus sees no increase in a series that is born at 1.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from schemas.errors import Reason, RequestError

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hearken_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "hearken_request_seconds",
            "Time to the end of the answer, seconds.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "hearken_requests_refused", "Requests and messages refused.", ["code"], registry=self.registry
        )
        self.first_token = Histogram(
            "hearken_first_token_seconds",
            "Time to a reply's first token, seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter("hearken_tokens", "Tokens of turns answered.", ["kind"], registry=self.registry)
        self.replies = Counter("hearken_replies", "Replies completed.", ["policy"], registry=self.registry)
        self.streams = Gauge("hearken_streams", "Requests being answered.", registry=self.registry)
        self.sockets = Gauge("hearken_live_sockets", "Websockets open.", registry=self.registry)
        self.feedback = Counter("hearken_feedback", "Votes made durable.", ["type"], registry=self.registry)
        self.vote_seconds = Histogram(
            "hearken_vote_seconds",
            "Time until a vote was durable, whichever way it came, seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.votes_failed = Counter(
            "hearken_votes_failed", "Votes that could not be made durable.", registry=self.registry
        )
        self.swaps = Counter(
            "hearken_policy_swaps", "Changes of the live policy.", ["project"], registry=self.registry
        )
        self.rejected = Counter(
            "hearken_policies_rejected", "Policies refused.", ["reason"], registry=self.registry
        )
        for reason in get_args(Reason):
            self.rejected.labels(reason)
        self.live = Gauge(
            "hearken_live_policy",
            "1 for the policy that is live.",
            ["project", "policy"],
            registry=self.registry,
        )
        self.unserved = Gauge(
            "hearken_policies_unserved",
            "Policies that a route needs and no engine in rotation serves.",
            registry=self.registry,
        )
        self.engines = Gauge(
            "hearken_engines_in_rotation", "Engines that answer, and rightly.", registry=self.registry
        )

    @contextmanager
    def vote(self) -> Iterator[None]:
        """Around the making durable of one vote. What is wrong with the vote itself is no failure."""
        begun = time.monotonic()
        try:
            yield
        except RequestError as error:
            if error.status >= 500:
                self.votes_failed.inc()
            raise
        except Exception:
            self.votes_failed.inc()
            raise
        self.vote_seconds.observe(time.monotonic() - begun)

    def text(self) -> bytes:
        """The page at `/metrics`."""
        return generate_latest(self.registry)
