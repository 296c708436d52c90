"""Turns that another chat answered (`serving.turns`) come without token ids, and so do redacted ones
(`feedback.redaction`), whose ids would say what was there; a round adds those of the text that it reads.

A redacted prompt that was more than its messages (tools, documents, arguments of the template), or a reply
that is more than text, cannot be written again from what is stored, so nothing is trained on it.
"""

import structlog
from jinja2 import TemplateError
from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from schemas.database import Pool
from schemas.turns import IMPORTED, REDACTED
from trainer.model.tokenizer import ChatTokenizer

MAX_TURNS = 1_000
"""Turns that one round tokenizes; the next one goes on."""

BESIDE_MESSAGES = ["tools", "documents", "chat_template_kwargs"]
"""Fields of a turn's `request` that a template writes into the prompt."""

UNTRAINABLE = "untrainable"
"""The field of a turn's `request` that says why nothing can be trained on it."""

log = structlog.get_logger("trainer")


def tokenize(pool: Pool, project: str, tokenizer: ChatTokenizer) -> int:
    """Adds the token ids of voted turns that have none; returns the number of turns. A turn that the base
    cannot read is marked, and not read again."""
    with pool.connection() as connection, connection.transaction():
        rows = connection.execute(
            "select id, messages, request ?| %(beside)s or exists (select from replies"
            "  where turn_id = t.id and message is not null) and request ? %(redacted)s as more,"
            " array(select text from replies where turn_id = t.id order by choice) as texts"
            " from turns t where project = %(project)s and cardinality(prompt_token_ids) = 0"
            " and not request ?| array[%(mark)s, 'media']"
            " and (starts_with(id, %(imported)s) or request ? %(redacted)s)"
            " and id in (select turn_id from training_examples where project = %(project)s"
            "  and superseded_by is null and vote_summary is null)"
            " order by id limit %(limit)s",
            {
                "project": project, "mark": UNTRAINABLE, "imported": IMPORTED, "redacted": REDACTED,
                "beside": BESIDE_MESSAGES, "limit": MAX_TURNS,
            },
        ).fetchall()  # fmt: skip
        for row in rows:
            _tokenize(connection, tokenizer, row)
    return len(rows)


def _tokenize(connection: Connection[DictRow], tokenizer: ChatTokenizer, row: DictRow) -> None:
    size = sum(len(text.encode()) for text in [*row["texts"], str(row["messages"])])
    try:
        if row["more"]:
            raise ValueError("its prompt or its reply is more than text")
        if size > tokenizer.most_bytes:
            raise ValueError("it is longer than the context")
        prompt = tokenizer.render(row["messages"])
    except (TemplateError, ValueError) as error:
        reason = Jsonb({UNTRAINABLE: str(error)[:500]})
        connection.execute("update turns set request = request || %s where id = %s", [reason, row["id"]])
        log.warning("turn left out", turn=row["id"], reason=type(error).__name__)
        return
    connection.execute("update turns set prompt_token_ids = %s where id = %s", [prompt, row["id"]])
    for choice, text in enumerate(row["texts"]):
        connection.execute(
            "update replies set token_ids = %s where turn_id = %s and choice = %s",
            [tokenizer.encode_reply(text, keep_markers=True), row["id"], choice],
        )
