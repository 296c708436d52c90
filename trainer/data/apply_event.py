"""This module applies a feedback event to the table of training examples."""

from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from schemas.feedback import FeedbackEvent

# Who voted is in the vote's own row. Without it (the vote was deleted, or its author erased) nothing is
# learned; an event of version 1 names them itself. A superseding event may be read before the vote, so the
# vote's row also tells whether it is still active. Conversations are named by clients and are not copied.
_INSERT = """
insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,
    conversation_id, created_at, superseded_by)
select %(event_id)s, %(project)s, %(feedback_id)s, %(turn_id)s, %(choice)s, %(type)s, %(value)s,
    coalesce(f.rater, %(rater)s), '', %(created_at)s,
    case when f.superseded_by is not null or f.retracted_at is not null
        then coalesce(newer.event_id, 'retracted') end
from (select 1) as event
left join feedback f on f.id = %(feedback_id)s
left join feedback newer on newer.id = f.superseded_by
where coalesce(f.rater, %(rater)s) is not null
    and not erased(%(project)s, coalesce(f.rater, %(rater)s), %(created_at)s)
on conflict do nothing
"""


def apply_event(connection: Connection[DictRow], event: FeedbackEvent) -> None:
    """Applies one event to the training examples: idempotent, and independent of the order of events. Raises
    psycopg.DataError or psycopg.IntegrityError if the database refuses it."""
    if event.kind == "retracted":
        _supersede(connection, event.feedback_id, event.event_id)
        return
    if event.supersedes is not None:
        _supersede(connection, event.supersedes, event.event_id)
    connection.execute(_INSERT, {**event.model_dump(), "value": Jsonb(event.value)})


def _supersede(connection: Connection[DictRow], feedback_id: str, by: str) -> None:
    connection.execute(
        "update training_examples set superseded_by = %s where feedback_id = %s and superseded_by is null",
        [by, feedback_id],
    )


def refusal(error: DataError | IntegrityError) -> str:
    """Returns the reason for which the database refused an event."""
    return error.diag.message_primary or str(error)
