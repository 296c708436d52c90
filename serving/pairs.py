"""A pair is asked for where a comparison teaches most: a message is answered with two replies instead of one.

A page that can show two replies says for what share of its messages it would (`compare`). Of twice as many,
drawn at random, several replies are sampled, and the pair of them on which the members of the reward model
disagree most (`person_weights.information`) is asked about with a probability in proportion to it. So the
share is met on average, and a message whose replies are much alike is seldom asked about. A duel in place of
the pair (`duel`) is asked about by chance alone.

A person is asked `serving.pairs_per_day` times at most, and no more that day once they left a pair
unanswered. The probability of asking is recorded with the turn, whether it asked or not, so that an estimate
from votes on single replies can weigh those that are left (`trainer.evaluation.off_policy`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from serving.person_weights import Values, information

CHOICES = 4
"""Replies among which a pair is chosen."""

LOOKED_AT = 2
"""Messages that are looked at for each one that is asked about."""

MOST_LIKELY = 0.8
"""Largest probability of asking, so that every message may also be answered with one reply."""

_FORGETTING = 0.05  # of the mean information, for each pair
_ASKED: LiteralString = """
    select count(*) as asked, count(*) filter (where not exists (
        select from feedback f where f.turn_id = t.id and f.type = 'ranking' and f.rater = t.rater
            and f.superseded_by is null and f.retracted_at is null
    )) as unanswered
    from (
        select id, rater from turns where project = %s and rater = %s and request ? 'pair'
            and request -> 'pair' -> 'asked' = 'true' and created_at > now() - interval '1 day' limit %s
    ) as t
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which replies are sent: two where it asks, else one. `propensity` is the probability with which it
    would ask, `information` what an answer is expected to say, nats; None where no engine scores replies."""

    choices: Sequence[int]
    propensity: float
    information: float | None

    def as_json(self) -> dict[str, Any]:
        said = None if self.information is None else round(self.information, 5)
        return {"asked": len(self.choices) > 1, "propensity": self.propensity, "information": said}


@dataclass(slots=True)
class PairChooser:
    """Decides about messages, by the mean information of those before, by project."""

    typical: dict[str, float] = field(default_factory=dict)

    def decide(self, project: str, texts: Sequence[str], values_NMC: Values | None) -> Decision:
        """Returns what is sent of the replies with these texts, which have the (N, M, C) values, in logits of
        a comparison."""
        pairs = [
            (one, other) for one, other in combinations(range(len(texts)), 2) if texts[one] != texts[other]
        ]
        if not pairs:
            return Decision([0], 0.0, None)
        if values_NMC is None:
            return drawn(pairs[0])
        gains = [information(values_NMC[one] - values_NMC[other]) for one, other in pairs]
        best = int(np.argmax(gains))
        typical = self.typical.get(project, gains[best])
        self.typical[project] = typical + _FORGETTING * (gains[best] - typical)
        likely = gains[best] / (LOOKED_AT * typical) if typical > 0 else 1 / LOOKED_AT
        return drawn(pairs[best], round(min(MOST_LIKELY, likely), 4), gains[best])


def drawn(pair: tuple[int, int], propensity: float = 1 / LOOKED_AT, gain: float | None = None) -> Decision:
    """Decides about a pair by chance alone, of a message that is looked at: it asks with this propensity."""
    asks = random.random() < propensity
    return Decision(random.sample(pair, 2) if asks else [0], propensity, gain)


def looks(share: float) -> bool:
    """Returns whether a message is looked at, where the page would ask about this share of them."""
    return random.random() < LOOKED_AT * share


async def may_ask(pool: AsyncPool, project: str, person: str, per_day: int) -> bool:
    """Returns whether a person may be asked; False, too, while the database is away."""
    if per_day == 0:
        return False
    try:
        async with pool.connection(timeout=1.0) as connection:
            cursor = await connection.execute(_ASKED, [project, person, per_day])
            row = await cursor.fetchone()
    except (psycopg.OperationalError, PoolTimeout):
        return False
    return row is not None and row["asked"] < per_day and row["unanswered"] == 0
