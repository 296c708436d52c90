"""The votes that stand, joined to what they are about, and prompts by the names of their turns (`prompts`).

Text and token ids are read from the turns by id each round and never kept: what was erased there is gone
from the next round on.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, product
from typing import Any

from schemas.database import Pool
from schemas.errors import HearkenError
from schemas.feedback import JUDGE
from schemas.settings import RewardSettings
from schemas.turns import IMPORTED
from trainer.model.backbone import Backbone
from trainer.reward.likelihood import Votes

MOST_EXAMPLES = 20_000
"""Votes that a round reads as they are, and as many signals. Where more stand, the newest; most of these are
then folded (`past`), and the next round reads the next."""

GOOD_SIGNALS = {"copied", "shared"}
"""The others, regenerated and abandoned, are bad ones."""


class Erased(HearkenError):
    """Some of the votes or prompts that a round learned from are gone: erased, or older than what is kept."""

    def __init__(self, what: str, gone: int, of: int) -> None:
        super().__init__(f"{gone} of the {of} {what} that it was trained on are gone.")


Key = tuple[str, str]
"""A reply's name: its turn, and its choice or the feedback that wrote it."""


@dataclass(frozen=True, slots=True)
class Reply:
    prompt_ids: list[int]
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Example:
    """A vote or signal that stands. `about` names the replies it speaks of, an edit's own text first."""

    event_id: str
    turn_id: str
    type: str
    value: dict[str, Any]
    rater: str
    about: tuple[Key, ...]
    created_at: datetime
    learned: bool

    def fold(self, folds: int) -> int:
        return fold_of(self.turn_id, folds)

    @property
    def imported(self) -> bool:
        """Whether its replies came from a file, where no order shows which of them was seen first."""
        return self.turn_id.startswith(IMPORTED)

    @property
    def by_judge(self) -> bool:
        return self.rater.startswith(JUDGE)

    @property
    def of_person(self) -> bool:
        """Whether it is a person's vote: no judge's, and no signal."""
        return not self.by_judge and self.type != "signal"


@dataclass(frozen=True, slots=True)
class Corpus:
    """`unreadable` votes were left out, since the base cannot read what they are about: it is longer than the
    context, or of another vocabulary."""

    examples: list[Example]
    replies: dict[Key, Reply]
    unreadable: int = 0

    @property
    def newest(self) -> datetime:
        return max((example.created_at for example in self.examples), default=datetime.min)

    def votes(
        self, examples: Iterable[Example], reward: RewardSettings, past: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[Votes, list[Key]]:
        """The same as numbers, and the replies that these count by. What is older by the half-life than the
        newest weighs half as much, and judges together no more than their share of what people's votes do;
        `past` is what these and judges weigh beside."""
        chosen = list(examples)
        keys = list(dict.fromkeys(key for example in chosen for key in example.about))
        reply = {key: index for index, key in enumerate(keys)}
        rater_of = {name: index for index, name in enumerate(raters(chosen))}
        weights = self._weights(chosen, reward, *past)
        votes = Votes(len(rater_of))
        for example, weight in zip(chosen, weights, strict=True):
            rater, about = rater_of[example.rater], [reply[key] for key in example.about]
            match example.type:
                case "thumb":
                    votes.thumb(rater, about[0], example.value["value"] == "up", weight)
                case "signal":
                    votes.signal(rater, about[0], example.value["signal"] in GOOD_SIGNALS, weight)
                case "edit":
                    votes.edit(rater, about[0], about[1], weight)
                case "ranking":
                    groups = [[about[choice] for choice in group] for group in example.value["ranking"]]
                    first = None if example.imported else about[0]
                    votes.ranking(rater, groups, first, example.value["acceptable"], weight)
        return votes, keys

    def _weights(
        self, chosen: Sequence[Example], reward: RewardSettings, past_people: float, past_judges: float
    ) -> list[float]:
        newest = self.newest
        weights = [weight_of_age(newest - example.created_at, reward) for example in chosen]
        judged = [example.by_judge for example in chosen]
        of_judges = sum(weight for weight, by_judge in zip(weights, judged, strict=True) if by_judge)
        of_people = past_people + sum(
            weight for weight, example in zip(weights, chosen, strict=True) if example.of_person
        )
        most = max(0.0, reward.judges_share * of_people - past_judges)
        if of_judges <= most:
            return weights
        return [
            weight * most / of_judges if by_judge else weight
            for weight, by_judge in zip(weights, judged, strict=True)
        ]

    def pairs(self, weighed: Iterable[tuple[Example, float]]) -> list[tuple[Key, Key, float]]:
        """Of replies to one prompt, the better one first: as ranked or edited, or thumbed up and down by one
        person; and what the vote weighs, or the lighter of two thumbs."""
        found: list[tuple[Key, Key, float]] = []
        thumbs: dict[tuple[str, str], dict[str, list[tuple[Key, float]]]] = {}
        for example, weight in weighed:
            if example.type == "edit":
                found.append((example.about[0], example.about[1], weight))
            elif example.type == "thumb":
                mine = thumbs.setdefault((example.turn_id, example.rater), {"up": [], "down": []})
                mine[example.value["value"]].append((example.about[0], weight))
            elif example.type == "ranking":
                groups = [[example.about[choice] for choice in group] for group in example.value["ranking"]]
                for better, worse in combinations(groups, 2):
                    found += [(one, other, weight) for one, other in product(better, worse)]
        for mine in thumbs.values():
            for (liked, one), (disliked, other) in product(mine["up"], mine["down"]):
                found.append((liked, disliked, min(one, other)))
        return found

    def judged(self, weighed: Iterable[tuple[Example, float]]) -> list[tuple[Key, bool, float]]:
        """Replies that were called good or not: by thumbs; an edit and what it replaced; the first and the
        last of a ranking, or all of them where none was good enough; and what the vote weighs."""
        found: list[tuple[Key, bool, float]] = []
        for example, weight in weighed:
            if example.type == "edit":
                found += [(example.about[0], True, weight), (example.about[1], False, weight)]
            elif example.type == "thumb":
                found.append((example.about[0], example.value["value"] == "up", weight))
            elif example.type == "ranking":
                groups = example.value["ranking"]
                if not example.value["acceptable"]:
                    found += [(key, False, weight) for key in example.about]
                elif len(groups) > 1:
                    found += [(example.about[choice], True, weight) for choice in groups[0]]
                    found += [(example.about[choice], False, weight) for choice in groups[-1]]
        return found


def raters(examples: Iterable[Example]) -> list[str]:
    """Who voted, in the order in which `Corpus.votes` numbers them."""
    return list(dict.fromkeys(example.rater for example in examples))


def weight_of_age(age: timedelta, reward: RewardSettings) -> float:
    """Of what is so much older than the newest."""
    weight: float = 0.5 ** (age / timedelta(days=reward.half_life_days))
    return weight


def fold_of(turn_id: str, folds: int) -> int:
    """Which fold a turn, its prompt and all votes on it belong to."""
    return int.from_bytes(hashlib.sha256(turn_id.encode()).digest()[:8]) % folds


def count(pool: Pool, project: str) -> int:
    """Votes of people that ever arrived, those since ended included, so that it only grows; signals are no
    votes."""
    with pool.connection() as connection:
        row = connection.execute(
            "select count(*) as votes from training_examples"
            " where project = %s and type <> 'signal' and not starts_with(rater, %s)",
            [project, JUDGE],
        ).fetchone()
    return int(row["votes"]) if row else 0


def standing(pool: Pool, project: str) -> list[str]:
    """The newest MOST_EXAMPLES votes, and as many signals, that stand, that are not folded (`past`) and whose
    turns are still there, oldest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select event_id from ("
            " select e.event_id, e.created_at,"
            " row_number() over (partition by e.type = 'signal' order by e.created_at desc, e.event_id)"
            " as place"
            " from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id"
            " where e.project = %s and e.superseded_by is null and e.vote_summary is null"
            ") as standing where place <= %s order by created_at, event_id desc",
            [project, MOST_EXAMPLES],
        ).fetchall()
    return [row["event_id"] for row in rows]


def load(pool: Pool, project: str, backbone: Backbone, events: Sequence[str]) -> Corpus:
    """The votes of these events, in their order, whether they still stand or not. Raises Erased when some, or
    what they are about, are gone."""
    with pool.connection() as connection:
        found = connection.execute(
            "select e.event_id, e.feedback_id, e.turn_id, e.choice, e.type, e.value, e.rater, e.created_at,"
            " e.first_policy, f.text, t.prompt_token_ids"
            " from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id"
            " where e.project = %s and e.event_id = any(%s)",
            [project, list(events)],
        ).fetchall()
        by_event = {row["event_id"]: row for row in found}
        rows = [by_event[event] for event in events if event in by_event]
        if len(rows) < len(events):
            raise Erased("votes", len(events) - len(rows), len(events))
        turns = list({row["turn_id"] for row in rows})
        answers = connection.execute(
            "select turn_id, choice, token_ids from replies where turn_id = any(%s) order by turn_id, choice",
            [turns],
        ).fetchall()
    prompts = {row["turn_id"]: row["prompt_token_ids"] for row in rows}
    replies: dict[Key, Reply] = {}
    choices: dict[str, list[Key]] = {}
    for answer in answers:
        key = (answer["turn_id"], str(answer["choice"]))
        if answer["token_ids"] and backbone.reads(prompts[answer["turn_id"]], answer["token_ids"]):
            replies[key] = Reply(prompts[answer["turn_id"]], answer["token_ids"])
        choices.setdefault(answer["turn_id"], []).append(key)
    examples = []
    for row in rows:
        about = choices.get(row["turn_id"], [])
        if row["type"] != "ranking":
            about = [key for key in about if key[1] == str(row["choice"])]
        if row["type"] == "edit":
            written: Key = (row["turn_id"], row["feedback_id"])
            said = backbone.encode_reply(row["text"] or "")
            if backbone.reads(row["prompt_token_ids"], said):
                replies[written] = Reply(row["prompt_token_ids"], said)
            about = [written, *about]
        whole = len(about) > (row["type"] == "edit") and all(key in replies for key in about)
        if whole:
            examples.append(
                Example(
                    row["event_id"], row["turn_id"], row["type"], row["value"], row["rater"],
                    tuple(about), row["created_at"], row["first_policy"] is not None,
                )
            )  # fmt: skip
    return Corpus(examples, replies, unreadable=len(rows) - len(examples))


def prompts(pool: Pool, project: str, backbone: Backbone, turns: Sequence[str]) -> dict[str, list[int]]:
    """The prompts' token ids by turn, in the order of `turns`, of those that the base can read. Raises Erased
    when some are gone."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select id, prompt_token_ids from turns where project = %s and id = any(%s)",
            [project, list(turns)],
        ).fetchall()
    found = {row["id"]: list(row["prompt_token_ids"]) for row in rows}
    if len(found) < len(turns):
        raise Erased("prompts", len(turns) - len(found), len(turns))
    return {turn: found[turn] for turn in turns if backbone.reads(found[turn])}
