"""What a round makes of its inputs: the reward model of the votes, and the adapter that it leads to.

Everything here follows from the inputs, the votes and prompts that they name, the adapter to start from and
the settings: the same ones give the same bytes on the same kind of machine (`rebuild`). So every use of
chance has a generator of its own, and what is kept between rounds to save time (`Seen`, and what the base
knows) does not depend on which round computed it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from schemas.settings import TrainerSettings
from trainer.data import examples, vote_summary
from trainer.data.examples import Corpus, Example, Key
from trainer.data.round_inputs import Inputs
from trainer.data.vote_summary import Past
from trainer.evaluation import gate
from trainer.evaluation.gate import Answers
from trainer.evaluation.knowledge import Exam
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Sampler
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import Views
from trainer.reward.likelihood import Votes
from trainer.reward.scoring import measure
from trainer.rl.objectives import DPO, KTO, Demonstration, Imitating, Judged, Objective, on_samples
from trainer.rl.optimize import Improvement, Step, improve
from trainer.rl.style_drift import Drift

BASE_PROMPTS, BASE_REPLIES = 128, 4
"""What the base says to recent prompts sets the scale of the reward; it is what policies drift from, and what
is liked of it they imitate."""

IMITATED, EXEMPLARS = 8, 32
"""Edits, and replies of the base, that are imitated in one step."""

EXEMPLARY = 0.05
"""Least weight of a reply of the base that is."""


class Seen:
    """What the base makes of the replies that votes are about: computed once for each, forgotten with it."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._views: dict[Key, Views] = {}
        self._logprobs: dict[Key, float] = {}

    def look(self, corpus: Corpus) -> None:
        """Have the views of all replies of `corpus`, and no others. Each reply has a batch to itself."""
        self._views = {key: views for key, views in self._views.items() if key in corpus.replies}
        self._logprobs = {key: self._logprobs[key] for key in self._views}
        fresh = [key for key in corpus.replies if key not in self._views]
        if fresh:
            replies = [corpus.replies[key] for key in fresh]
            measured = measure(
                self._backbone,
                [reply.prompt_ids for reply in replies],
                [reply.token_ids for reply in replies],
                at_once=1,
            )
            for row, key in enumerate(fresh):
                self._views[key] = {name: view[row].clone() for name, view in measured.views.items()}
                self._logprobs[key] = sum(measured.base_logprobs[row])

    def judged(self, corpus: Corpus, key: Key) -> Judged:
        reply = corpus.replies[key]
        return Judged(reply.prompt_ids, reply.token_ids, self._logprobs[key])

    def of(self, keys: list[Key]) -> Views:
        names = self._views[keys[0]]
        return {name: torch.stack([self._views[key][name] for key in keys]) for name in names}


@dataclass(frozen=True, slots=True)
class Learned:
    """`model` is fitted to the training votes, `judge` to those held out, None where they say nothing; `base`
    is what the base says to recent prompts."""

    model: RewardModel
    judge: RewardModel | None
    base: Answers
    improvement: Improvement


def exemplars(
    prompts: Sequence[list[int]], base: Answers, model: RewardModel, beta: float
) -> list[Demonstration]:
    """Which of the base's own replies, BASE_REPLIES to each of the first `prompts`, people would like. The
    best policy for a reward is the base, each reply weighted by exp(r/β): these show it, whatever way a
    policy goes there. The highest reward that there is weighs 1."""
    weights = ((model.reward(base.views) - model.most) / max(beta, 1e-3)).exp().tolist()
    return [
        Demonstration(prompts[row // BASE_REPLIES], token_ids, weight)
        for row, (token_ids, weight) in enumerate(zip(base.token_ids, weights, strict=True))
        if weight >= EXEMPLARY
    ]


class Round:
    """Votes and prompts of `inputs`, and the `past` that they name, less the fold that the gate has. Of a
    prompt that leaves no room for a reply only the end is asked, by whoever samples or reads replies."""

    def __init__(
        self,
        backbone: Backbone,
        settings: TrainerSettings,
        inputs: Inputs,
        corpus: Corpus,
        prompts: dict[str, list[int]],
        before: Past | None = None,
    ) -> None:
        self._backbone = backbone
        self._settings = settings
        self.inputs = inputs
        self.corpus = corpus
        self.prompts = prompts
        self.past = before.on(corpus.newest, settings.reward) if before and corpus.examples else None
        folds = settings.gate.folds
        fold = self._fold_kept = inputs.draw % folds
        self.training = [example for example in corpus.examples if example.fold(folds) != fold]
        self.held_out = [example for example in corpus.examples if example.fold(folds) == fold]
        asked = {turn: backbone.with_room(prompt, settings.rl.max_tokens) for turn, prompt in prompts.items()}
        self.practice = [prompt for turn, prompt in asked.items() if examples.fold_of(turn, folds) != fold]
        exam = [prompt for turn, prompt in asked.items() if examples.fold_of(turn, folds) == fold]
        self.exam = (exam or self.practice)[: settings.gate.prompts]

    def generator(self, purpose: str) -> torch.Generator:
        return self.inputs.generator(self._settings.seed, purpose)

    def votes(self, *, held_out: bool = False) -> tuple[Votes, list[Key]]:
        """Those to train on, or those held out, as numbers, and the replies that these count by."""
        chosen = self.held_out if held_out else self.training
        weights = self.past.weights(self._folds(held_out)) if self.past else (0.0, 0.0)
        return self.corpus.votes(chosen, self._settings.reward, weights)

    def learned_from(self) -> list[str]:
        """The names of the votes to train on, those of the past too."""
        older = self.past.of_folds(self._folds(held_out=False)) if self.past else []
        return [*older, *(example.event_id for example in self.training)]

    def _folds(self, held_out: bool) -> list[int]:
        return [each for each in range(self._settings.gate.folds) if (each == self._fold_kept) == held_out]

    def useless(self) -> str | None:
        """Why nothing can be learned, if that is so."""
        if not self.practice:
            return "no prompts to practise on"
        if not self.votes()[0].says_something():
            return "the votes say nothing yet: all thumbs alike, and no ranking or edit"
        if self._settings.rl.algorithm == "dpo" and not self.corpus.pairs(
            (example, 1.0) for example in self.training
        ):
            return "no vote sets one reply to a prompt above another, which is all that DPO learns from"
        return None

    def learn(
        self,
        seen: Seen,
        exam: Exam,
        sampler: Sampler,
        report: Callable[[int, Step], None] = lambda number, step: None,
    ) -> Learned:
        """Improve the backbone's adapter, which is that of `inputs.parent` before."""
        base = gate.answer(
            self._backbone, self.practice[:BASE_PROMPTS], BASE_REPLIES, self._settings.rl.max_tokens,
            self.generator("base"), of_base=True,
        )  # fmt: skip
        seen.look(self.corpus)
        model = self.fit(base.views, seen)
        judge = self.fit(base.views, seen, held_out=True)
        assert model is not None  # noqa: S101  (the training votes say something)
        knowledge = self.generator("guard")
        improvement = improve(
            self._backbone, self.practice, model.reward, self._settings.rl, self.generator("prompts"),
            self._objective(seen, model, base), sampler, report, lambda: exam.lost(knowledge),
            lambda: exam.passes(knowledge),
            self.inputs.knowledge_lost / self._settings.gate.knowledge_loss,
            self._settings.rl.entropy_floor * base.entropy,
            Drift(model.members[0].lenses, base.views, model.reward(base.views)),
        )  # fmt: skip
        return Learned(model, judge, base, improvement)

    def _objective(self, seen: Seen, model: RewardModel, base: Answers) -> Objective:
        """That of the algorithm, and beside it the imitation of what is liked of `base`, and of edits; each
        vote counts by its age and its rater's reliability, and judges' together no more than they may."""
        rl = self._settings.rl
        votes, _ = self.votes()
        reliabilities = model.reliability_U[votes.rater_of_each].clamp(0, 1).tolist()
        weights = [age * known for age, known in zip(votes.weights, reliabilities, strict=True)]
        weighed = list(zip(self.training, weights, strict=True))
        objective = self._of_algorithm(seen, weighed, exemplars(self.practice, base, model, rl.kl_penalty))
        edits = [
            Demonstration(reply.prompt_ids, reply.token_ids, weight)
            for example, weight in weighed
            if example.type == "edit"
            for reply in [self.corpus.replies[example.about[0]]]
        ]
        if rl.imitation and edits:
            objective = Imitating(objective, edits, rl.imitation, IMITATED, self.generator("imitation"))
        return objective

    def _of_algorithm(
        self, seen: Seen, weighed: list[tuple[Example, float]], liked: list[Demonstration]
    ) -> Objective:
        rl = self._settings.rl
        objective = on_samples(rl)
        if objective is not None and rl.exemplars and liked:
            return Imitating(objective, liked, rl.exemplars, EXEMPLARS, self.generator("exemplars"))
        if objective is not None:
            return objective
        generator = self.generator("votes")
        if rl.algorithm == "dpo":
            pairs = [
                (seen.judged(self.corpus, better), seen.judged(self.corpus, worse), weight)
                for better, worse, weight in self.corpus.pairs(weighed)
            ]
            return DPO(pairs, rl.prompts, generator)
        judged = [
            (seen.judged(self.corpus, key), good, weight) for key, good, weight in self.corpus.judged(weighed)
        ]
        return KTO(judged, 2 * rl.prompts, generator)

    def fit(self, base: Views, seen: Seen, *, held_out: bool = False) -> RewardModel | None:
        """The reward model of the votes to train on, or of those held out; None when they say nothing."""
        votes, keys = self.votes(held_out=held_out)
        if not votes.says_something():
            return None
        raters = examples.raters(self.held_out if held_out else self.training)
        older = self.past.recall(self._folds(held_out), raters) if self.past else None
        return ensemble.fit(
            seen.of(keys), votes, base, BASE_REPLIES, self._settings.reward,
            self.generator("judges" if held_out else "members"), older,
        )  # fmt: skip

    def fold(self, seen: Seen, model: RewardModel) -> Past | None:
        """The past for the next round, after one that made `model`; None where this one's will do."""
        signals = {example.event_id for example in self.corpus.examples if example.type == "signal"}
        events = [
            *vote_summary.oldest([event for event in self.inputs.events if event not in signals]),
            *vote_summary.oldest([event for event in self.inputs.events if event in signals]),
        ]
        if not events:
            return None
        settings = self._settings
        before = self.past or Past.none(
            vote_summary.made_for(self._backbone.digest, settings), self.corpus.newest,
            model.members[0].lenses, settings.gate.folds, settings.reward.members,
        )  # fmt: skip
        return before.fold(self.corpus, events, seen.of, settings.reward, self.generator("past"))
