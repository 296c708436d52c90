"""The relay and the Kafka log share these connection settings and the creation of the topic."""

import time
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.settings import KafkaSettings

NOTICE_SECONDS = 60.0
"""Seconds between two notices that the broker is away."""

log = structlog.get_logger("broker")


class BrokerNotice:
    """Says that the broker is away, once a minute for as long as it is."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._servers = kafka.servers
        self._next = 0.0  # time.monotonic

    def away(self, error: KafkaError) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTICE_SECONDS
            log.warning("broker is away", servers=self._servers, error=type(error).__name__)


def connection(kafka: KafkaSettings) -> dict[str, Any]:
    """Returns the arguments of every Kafka client. Timeouts are short, since every caller retries."""
    password = kafka.sasl_password
    return {
        "bootstrap_servers": kafka.servers,
        "client_id": "hearken",
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "ssl_cafile": kafka.ssl_cafile and str(kafka.ssl_cafile),
        "ssl_certfile": kafka.ssl_certfile and str(kafka.ssl_certfile),
        "ssl_keyfile": kafka.ssl_keyfile and str(kafka.ssl_keyfile),
        "bootstrap_timeout_ms": 5_000,
        "reconnect_backoff_max_ms": 1_000,
    }


def ensure_topic(admin: KafkaAdminClient, kafka: KafkaSettings) -> str | None:
    """Create the topic if it is missing; returns the broker's id of it, where the broker has one. A topic
    that was deleted and created again has another id. Raises KafkaError."""
    if kafka.topic not in admin.list_topics():
        shape = {"num_partitions": kafka.partitions, "replication_factor": kafka.replication}
        with suppress(TopicAlreadyExistsError):  # another relay created it meanwhile
            admin.create_topics({kafka.topic: shape}, wait_for_metadata=True)
    topic_id = admin.describe_topics([kafka.topic])[0].get("topic_id")
    return str(topic_id) if topic_id else None
