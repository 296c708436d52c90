"""The widget has a sentence of its own for each error that a visitor can meet."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISED_IN = [
    *("schemas/chat.py", "schemas/errors.py", "schemas/messages.py", "schemas/wire.py"),
    *("feedback/spool.py", "feedback/store.py", "feedback/votable_turn.py"),
    *("serving/auth.py", "serving/completion.py", "serving/error_handlers.py", "serving/fleet.py"),
    *("serving/live.py", "serving/publishable.py", "serving/sessions.py", "serving/vote_submission.py"),
]
"""What checks and answers a page's chats and votes."""

BESIDE = {
    *("invalid_idempotency_key", "idempotency_key_reused", "missing"),  # of what a page does not send
    *("superseded", "conflict"),  # of a vote that is taken back, for which one sentence says that it failed
    "cancelled",  # the visitor did that
}


def test_each_code_that_a_visitor_can_meet_has_a_sentence() -> None:
    raised = {
        code
        for file in RAISED_IN
        for code in re.findall(r'\b(?:default_)?code ?= ?"([a-z_]+)"', (ROOT / file).read_text("utf-8"))
    }
    widget = (ROOT / "serving/web/src/widget/errors.ts").read_text("utf-8")
    assert raised - set(re.findall(r'"([a-z_]+)"', widget)) == BESIDE
