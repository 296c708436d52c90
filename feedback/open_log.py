"""The settings select the transport of the log."""

from feedback.log import Log
from schemas.database import Pool
from schemas.settings import Settings


def open_log(settings: Settings, pool: Pool) -> Log:
    """Returns the Kafka log where a broker is configured, else the log over the outbox table."""
    if settings.kafka.servers:
        from feedback.kafka_log import KafkaLog

        return KafkaLog(settings.kafka, pool)
    from feedback.postgres_log import PostgresLog

    return PostgresLog(pool)
