"""A prompt group is what lies in one cross-validation fold as a whole: all conversations with one opening.

The opening is the first message that a person sent in a conversation, normalised. Every turn sends the whole
history, so all turns of a conversation have its opening, and so have all conversations that begin with the
same words; equal prompts have equal openings. Groups are thus disjoint by conversation and by prompt, and
each follows from its turns alone: groups are never joined to larger ones.

An opening with which more than MAX_SHARE of the votes begin, in several conversations, would make a fold too
large. Conversations with such a common opening are groups by themselves, and their votes do not count as
unseen at the gate, because the training folds may hold the same prompt.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection
from psycopg.rows import DictRow

MAX_SHARE = 0.2
"""Largest share of a round's votes whose conversations make one group: as much as one of five folds."""

_MAX_CHARACTERS = 4_000  # of an opening that are compared
_OPENINGS: LiteralString = """
    select id, conversation_id, left(jsonb_path_query_first(messages,
        '$[*] ? (@.role == "user").content') #>> '{}', %(characters)s) as opening
    from turns where project = %(project)s and id = any(%(turns)s)
"""


class PromptGroup(NamedTuple):
    """The group of a turn. `common` tells whether other groups have its opening, too."""

    id: int
    common: bool


class Opening(NamedTuple):
    """A turn's conversation, and how it began; the text is empty where no person's message is in it."""

    conversation: str
    text: str


def normalised(text: str) -> str:
    """Returns the text without case, punctuation and differences of white space; the punctuation stays where
    nothing else is left."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or " ".join(folded.split())


def load_groups(
    connection: Connection[DictRow], project: str, voted: Sequence[str], prompts: Iterable[str]
) -> dict[str, PromptGroup]:
    """Returns the groups of the turns `voted`, one for each vote, and of the turns `prompts`."""
    rows = connection.execute(
        _OPENINGS,
        {"project": project, "turns": list({*voted, *prompts}), "characters": _MAX_CHARACTERS},
    ).fetchall()
    openings = {row["id"]: Opening(row["conversation_id"], normalised(row["opening"] or "")) for row in rows}
    return group(openings, voted)


def group(openings: Mapping[str, Opening], voted: Sequence[str]) -> dict[str, PromptGroup]:
    """Returns the group of each turn in `openings`; `voted` has the turn of each vote."""
    votes = Counter(openings[turn].text for turn in voted if turn in openings)
    conversations = Counter(opening.text for opening in set(openings.values()))
    found = {}
    for turn, opening in openings.items():
        shared = conversations[opening.text] > 1
        common = not opening.text or (shared and votes[opening.text] > MAX_SHARE * len(voted))
        found[turn] = PromptGroup(_hash(*opening) if common else _hash(opening.text), common)
    return found


def fold_of(turn: str, group: PromptGroup | None, folds: int) -> int:
    """Returns the cross-validation fold of a turn, its prompt and all votes on it. A turn without a group is
    one by itself."""
    return (group.id if group is not None else _hash(turn)) % folds


def _hash(*names: str) -> int:
    """Returns a hash of 63 bits, which JSON and Postgres can hold."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8]) >> 1
