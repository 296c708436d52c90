"""This module loads training examples: active votes joined to the replies that they are on, and prompts.

Texts and token ids are read from the turns by id in each round and never copied, so what was erased there is
gone from the next round on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, product
from typing import Any, LiteralString

from feedback.quarantine import TEACHES
from schemas.database import Pool
from schemas.errors import HearkenError
from schemas.feedback import JUDGE
from schemas.settings import RewardSettings
from schemas.turns import IMPORTED
from trainer.data.prompt_groups import PromptGroup, fold_of, load_groups
from trainer.data.vote_weights import NO_HISTORY, HistoryWeights, people_weights
from trainer.data.voted_replies import VotedReplies
from trainer.model.backbone import Backbone
from trainer.model.token_budget import UNLIMITED
from trainer.reward.likelihood import Votes

MAX_EXAMPLES = 20_000
"""Votes that a round loads, and as many signals, the newest where there are more. Most of them are then
compacted (`vote_summary`), and the next round loads the next."""

MAX_PROMPT_TOKENS = 2**24
"""Tokens of the prompts of the votes that a round loads, and of the signals: about 600 MB each. Where the
newest have more, older ones are left out."""

REBUILT = 1_000
"""Votes to be compacted anew (`summary_store`) that a round loads beside them, and as many signals: what a
round takes longer for them is bounded."""

GOOD_SIGNALS = {"copied", "shared"}
"""Positive signals; the others, regenerated and abandoned, are negative."""


class Erased(HearkenError):
    """Votes, prompts or demonstrations that a round trained on were erased, or are past their retention. The
    round cannot be reproduced; the next one trains without them."""

    def __init__(self, what: str, gone: int, of: int) -> None:
        super().__init__(f"{gone} of the {of} {what} that it was trained on are gone.")


_ACTIVE: LiteralString = """
select event_id from (
    select e.event_id, e.created_at, e.recompact, row_number() over newest_first as place,
        sum(least(cardinality(t.prompt_token_ids), %s)) over newest_first as tokens
    from training_examples e
    join turns t on t.id = e.turn_id
    join feedback f on f.id = e.feedback_id
    where e.project = %s and e.superseded_by is null and e.vote_summary is null
        and (e.type <> 'edit' or f.text is not null) and {teaches}
    window newest_first as
        (partition by e.type = 'signal', e.recompact order by e.created_at desc, e.event_id)
) as active
where place <= case when recompact then %s else %s end and tokens <= %s
order by created_at, event_id desc
"""

Key = tuple[str, str]
"""A reply's name: its turn, and its choice, or the feedback whose edit it is."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A prompt and a reply to it, as token ids."""

    prompt_ids: list[int]
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Example:
    """A vote or signal, with what its author wrote beside it. `reply_keys` names the replies that it is on,
    an edit's own text first; without a `group`, its turn is a group by itself. `origin` is the network that
    its turn came from, where nobody vouches for the rater."""

    event_id: str
    turn_id: str
    type: str
    value: dict[str, Any]
    rater: str
    reply_keys: tuple[Key, ...]
    created_at: datetime
    seen_in_training: bool
    group: PromptGroup | None = None
    comment: str | None = None
    origin: str | None = None

    def fold(self, folds: int) -> int:
        """Returns the cross-validation fold of the vote."""
        return fold_of(self.turn_id, self.group, folds)

    @property
    def owner(self) -> str:
        """The rater whom a server names; else the network, as who has no name may be many raters."""
        return self.origin or self.rater

    @property
    def unseen(self) -> bool:
        """Whether it is a person's vote that no policy has learned from, and on no common prompt."""
        common = self.group is not None and self.group.common
        return self.by_person and not self.seen_in_training and not common

    @property
    def imported(self) -> bool:
        """Whether its replies came from a file, where the order in which they were shown is unknown."""
        return self.turn_id.startswith(IMPORTED)

    @property
    def by_judge(self) -> bool:
        """Whether a judge model cast the vote."""
        return self.rater.startswith(JUDGE)

    @property
    def by_person(self) -> bool:
        """Whether it is a person's vote: not a judge's, and not a signal."""
        return not self.by_judge and self.type != "signal"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Examples and the replies that they are on. `unreadable` counts the votes left out because their replies
    are longer than the context or of another vocabulary; `truncated` counts the examples whose replies have
    only the end of their prompt, since the whole is too long. `groups` has the groups of turns, also of those
    that only give a prompt. `recompact` names the votes that are to be compacted anew, unreadable ones
    included. `factors` are those on the weights of votes in clusters (`reward.clusters`)."""

    examples: list[Example]
    replies: dict[Key, Reply]
    unreadable: int = 0
    truncated: int = 0
    groups: Mapping[str, PromptGroup] = field(default_factory=dict)
    recompact: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def newest(self) -> datetime:
        """The time of the newest example."""
        return max((example.created_at for example in self.examples), default=datetime.min)

    def votes(
        self,
        examples: Iterable[Example],
        reward: RewardSettings,
        history: HistoryWeights = NO_HISTORY,
    ) -> tuple[Votes, list[Key]]:
        """Returns the examples as votes of the likelihood, and the replies that their indices refer to. What
        they weigh is in `vote_weights`; `history` has what the votes in the vote summary weigh."""
        chosen = list(examples)
        keys = list(dict.fromkeys(key for example in chosen for key in example.reply_keys))
        reply = {key: index for index, key in enumerate(keys)}
        rater_of = {name: index for index, name in enumerate(raters(chosen))}
        weights = self._weights(chosen, reward, history)
        votes = Votes(len(rater_of), {rater_of[example.rater] for example in chosen if example.by_judge})
        for example, weight in zip(chosen, weights, strict=True):
            rater, on = rater_of[example.rater], [reply[key] for key in example.reply_keys]
            match example.type:
                case "thumb":
                    votes.thumb(rater, on[0], example.value["value"] == "up", weight)
                case "signal":
                    votes.signal(rater, on[0], example.value["signal"] in GOOD_SIGNALS, weight)
                case "edit":
                    votes.edit(rater, on[0], on[1], weight)
                case "ranking":
                    groups = [[on[choice] for choice in group] for group in example.value["ranking"]]
                    first = None if example.imported else on[example.value.get("shown", [0])[0]]
                    votes.ranking(rater, groups, first, example.value["acceptable"], weight)
        return votes, keys

    def _weights(
        self, chosen: Sequence[Example], reward: RewardSettings, history: HistoryWeights
    ) -> list[float]:
        """Returns the weights of some of the examples, of which all have a part in the bounds."""
        weight_of = people_weights(self.examples, self.newest, reward, history.raters)
        weights = [weight_of[each.event_id] * self.factors.get(each.event_id, 1.0) for each in chosen]
        weighted = list(zip(weights, chosen, strict=True))
        judges = sum(weight for weight, example in weighted if example.by_judge)
        people = history.people + sum(weight for weight, example in weighted if example.by_person)
        cap = max(0.0, reward.judge_weight_cap * people - history.judges)
        if judges <= cap:
            return weights
        return [weight * cap / judges if example.by_judge else weight for weight, example in weighted]

    def pairs(self, weighted: Iterable[tuple[Example, float]]) -> list[tuple[Key, Key, float]]:
        """Returns preference pairs with weights: (preferred, other) replies to one prompt, from rankings and
        edits, or from a person's thumbs up and down, with the lower of the two weights."""
        found: list[tuple[Key, Key, float]] = []
        thumbs: dict[tuple[str, str], dict[str, list[tuple[Key, float]]]] = {}
        for example, weight in weighted:
            keys = example.reply_keys
            if example.type == "edit":
                found.append((keys[0], keys[1], weight))
            elif example.type == "thumb":
                mine = thumbs.setdefault((example.turn_id, example.rater), {"up": [], "down": []})
                mine[example.value["value"]].append((keys[0], weight))
            elif example.type == "ranking":
                groups = [[keys[choice] for choice in group] for group in example.value["ranking"]]
                for better, worse in combinations(groups, 2):
                    found += [(one, other, weight) for one, other in product(better, worse)]
        for mine in thumbs.values():
            for (liked, one), (disliked, other) in product(mine["up"], mine["down"]):
                found.append((liked, disliked, min(one, other)))
        return found

    def labelled(self, weighted: Iterable[tuple[Example, float]]) -> list[tuple[Key, bool, float]]:
        """Returns binary labels of replies with weights, from thumbs, from edits and their originals, and
        from the first and last group of a ranking, or from all its replies where none was acceptable."""
        found: list[tuple[Key, bool, float]] = []
        for example, weight in weighted:
            keys = example.reply_keys
            if example.type == "edit":
                found += [(keys[0], True, weight), (keys[1], False, weight)]
            elif example.type == "thumb":
                found.append((keys[0], example.value["value"] == "up", weight))
            elif example.type == "ranking":
                groups = example.value["ranking"]
                if not example.value["acceptable"]:
                    found += [(key, False, weight) for key in keys]
                elif len(groups) > 1:
                    found += [(keys[choice], True, weight) for choice in groups[0]]
                    found += [(keys[choice], False, weight) for choice in groups[-1]]
        return found


def raters(examples: Iterable[Example]) -> list[str]:
    """Returns the distinct raters, in the order of their indices in `Corpus.votes`."""
    return list(dict.fromkeys(example.rater for example in examples))


def count_votes(pool: Pool, project: str) -> int:
    """Returns how many things people have voted on, superseded and erased votes included, without signals: a
    vote that is flipped is one. It only grows."""
    with pool.connection() as connection:
        row = connection.execute("select votes from vote_counts where project = %s", [project]).fetchone()
    return int(row["votes"]) if row else 0


def still_held(
    pool: Pool, project: str, events: Sequence[str], turns: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Returns which of these votes, and of these prompts' turns, can still be loaded, in their order."""
    with pool.connection() as connection:
        votes = connection.execute(
            "select e.event_id from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id"
            " where e.project = %s and e.event_id = any(%s) and (e.type <> 'edit' or f.text is not null)",
            [project, list(events)],
        ).fetchall()
        prompts = connection.execute(
            "select id from turns where project = %s and id = any(%s)", [project, list(turns)]
        ).fetchall()
    held, asked = {row["event_id"] for row in votes}, {row["id"] for row in prompts}
    return [event for event in events if event in held], [turn for turn in turns if turn in asked]


def active_events(pool: Pool, project: str, longest: int = UNLIMITED) -> list[str]:
    """Returns the newest MAX_EXAMPLES votes, and as many signals, oldest first, that are active, not
    compacted (`vote_summary`), not in quarantine, and whose turns exist, and beside them the newest REBUILT
    of those to be compacted anew. Their prompts, of which at most `longest` tokens each are read, have at
    most MAX_PROMPT_TOKENS tokens together."""
    with pool.connection() as connection:
        rows = connection.execute(
            _ACTIVE.format(teaches=TEACHES), [longest, project, REBUILT, MAX_EXAMPLES, MAX_PROMPT_TOKENS]
        ).fetchall()
    return [row["event_id"] for row in rows]


def trusted_events(pool: Pool, project: str, events: Sequence[str]) -> list[str]:
    """Returns which of these votes are by raters who were in quarantine, and whom an operator accepted."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select e.event_id from quarantine q join training_examples e using (project, rater)"
            " where q.project = %s and q.state = 'accepted' and e.event_id = any(%s) order by e.event_id",
            [project, list(events)],
        ).fetchall()
    return [row["event_id"] for row in rows]


def load(
    pool: Pool,
    project: str,
    backbone: Backbone,
    events: Sequence[str],
    longest: int = UNLIMITED,
    prompt_turns: Iterable[str] = (),
) -> Corpus:
    """Loads the votes of these events, in their order, whether they are still active or not, and the groups
    of their turns and of `prompt_turns`. A prompt that has more than `longest` tokens with its reply loses
    its beginning. Raises Erased when some of the votes, their turns, or what an edit said, are gone."""
    with pool.connection() as connection:
        found = connection.execute(
            "select e.event_id, e.feedback_id, e.turn_id, e.choice, e.type, e.value, e.rater, e.created_at,"
            " e.first_policy, e.recompact, f.text, f.comment, t.origin"
            " from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id"
            " where e.project = %s and e.event_id = any(%s) and (e.type <> 'edit' or f.text is not null)",
            [project, list(events)],
        ).fetchall()
        by_event = {row["event_id"]: row for row in found}
        rows = [by_event[event] for event in events if event in by_event]
        if len(rows) < len(events):
            raise Erased("votes", len(events) - len(rows), len(events))
        replies = VotedReplies(connection, backbone, [row["turn_id"] for row in rows], longest)
        groups = load_groups(connection, project, [row["turn_id"] for row in rows], prompt_turns)
    examples = []
    for row in rows:
        keys = replies.keys.get(row["turn_id"], [])
        if row["type"] != "ranking":
            keys = [key for key in keys if key[1] == str(row["choice"])]
        if row["type"] == "edit":
            edited: Key = (row["turn_id"], row["feedback_id"])
            replies.add(edited, backbone.encode_reply(row["text"] or ""))
            keys = [edited, *keys]
        if len(keys) > (row["type"] == "edit") and all(key in replies.found for key in keys):
            example = Example(
                row["event_id"], row["turn_id"], row["type"], row["value"], row["rater"],
                tuple(keys), row["created_at"], row["first_policy"] is not None, groups[row["turn_id"]],
                row["comment"], row["origin"],
            )  # fmt: skip
            examples.append(example)
    truncated = sum(any(key in replies.truncated for key in example.reply_keys) for example in examples)
    found_replies = {key: Reply(*ids) for key, ids in replies.found.items()}
    recompact = frozenset(row["event_id"] for row in rows if row["recompact"])
    return Corpus(examples, found_replies, len(rows) - len(examples), truncated, groups, recompact)


def load_prompts(pool: Pool, project: str, backbone: Backbone, turns: Sequence[str]) -> dict[str, list[int]]:
    """Loads the prompts' token ids by turn, in the order of `turns`, of those that fit the base. Raises
    Erased when some are gone."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select id, prompt_token_ids from turns where project = %s and id = any(%s)",
            [project, list(turns)],
        ).fetchall()
    found = {row["id"]: list(row["prompt_token_ids"]) for row in rows}
    if len(found) < len(turns):
        raise Erased("prompts", len(turns) - len(found), len(turns))
    return {turn: found[turn] for turn in turns if backbone.fits(found[turn])}
