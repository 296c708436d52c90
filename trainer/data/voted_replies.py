"""VotedReplies loads the replies that votes are on, with their prompts, in bounded memory.

Of a prompt that is too long together with its reply, only the end is read: the vote counts, and a long chat
costs no more than the longest row of training.
"""

from collections.abc import Sequence

from psycopg import Connection
from psycopg.rows import DictRow

from trainer.model.backbone import Backbone

_MAX_SUBSCRIPT = 2**31 - 1
"""The largest subscript of Postgres's arrays."""


class VotedReplies:
    """The replies of turns: in `found` (prompt, reply) token ids of those that fit the base, in `truncated`
    the keys of those of them whose prompt lost its beginning, in `keys` the keys of all by turn. No prompt
    has more than `longest` tokens with its reply. Turns with images or sounds are left out: their tokens
    alone are not what the model saw."""

    def __init__(
        self, connection: Connection[DictRow], backbone: Backbone, turns: Sequence[str], longest: int
    ) -> None:
        self._backbone = backbone
        self._longest = min(longest, _MAX_SUBSCRIPT)
        self.found: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self.truncated: set[tuple[str, str]] = set()
        self.keys: dict[str, list[tuple[str, str]]] = {}
        prompts = connection.execute(
            "select id, cardinality(prompt_token_ids) as tokens,"
            " prompt_token_ids[greatest(cardinality(prompt_token_ids) - %s, 0) + 1 :] as last_tokens"
            " from turns where id = any(%s) and not request ? 'media'",
            [self._longest, list(set(turns))],
        ).fetchall()
        self._prompts = {row["id"]: (row["tokens"], row["last_tokens"]) for row in prompts}
        replies = connection.execute(
            "select turn_id, choice, case when cardinality(token_ids) < %s then token_ids end as token_ids"
            " from replies where turn_id = any(%s) order by turn_id, choice",
            [self._longest, list(self._prompts)],
        ).fetchall()
        for row in replies:
            key = (row["turn_id"], str(row["choice"]))
            self.keys.setdefault(row["turn_id"], []).append(key)
            self.add(key, row["token_ids"] or [])

    def add(self, key: tuple[str, str], token_ids: list[int]) -> None:
        """Adds a reply to the turn `key[0]` if it fits the base."""
        tokens, prompt = self._prompts[key[0]]
        room = self._longest - len(token_ids)
        if room < len(prompt):
            prompt = prompt[len(prompt) - max(room, 0) :]
        if token_ids and self._backbone.fits(prompt, token_ids):
            self.found[key] = prompt, token_ids
            if tokens > room:
                self.truncated.add(key)
