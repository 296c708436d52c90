"""RoundData splits a round's votes and prompts into K folds by prompt group, and holds one out for the gate.

The held-out fold stays the same while the same policy is live, so its votes are unseen by a whole chain of
candidates, and add up until they can judge one. It changes with the live policy, at most once in some rounds
(`new_inputs`), so all votes are trained on in time. A fold with more than half of the votes is not held out:
the round trains on all, and its gate has nothing to judge by.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from schemas.settings import TrainerSettings
from trainer.data import examples, vote_summary
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.prompt_groups import fold_of
from trainer.data.round_inputs import RoundInputs
from trainer.data.vote_rows import VoteRows
from trainer.data.vote_summary import VoteSummary
from trainer.data.vote_weights import NO_HISTORY, HistoryWeights
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.reward import ensemble
from trainer.reward.clusters import Cluster, cluster_factors, find_clusters
from trainer.reward.ensemble import RewardModel
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures


class RoundData:
    """The votes and prompts that `inputs` names, split, with the summary of older votes, and the
    demonstrations. `settings` are the given ones with the round's objective. `train_prompts` and
    `eval_prompts` are truncated from the left where they leave no room for a reply in the context, or in the
    token budget."""

    def __init__(
        self,
        backbone: Backbone,
        settings: TrainerSettings,
        inputs: RoundInputs,
        corpus: Corpus,
        prompts: dict[str, list[int]],
        history: VoteSummary | None = None,
        demonstrations: Sequence[Reply] = (),
    ) -> None:
        self.backbone = backbone
        self.settings = settings.with_objective(inputs.objective)
        self.inputs = inputs
        self.rl = inputs.hyperparameters(settings.rl)
        self.corpus = corpus
        self.prompts = prompts
        self.demonstrations = demonstrations
        self.history = history.aged_to(corpus.newest) if history and corpus.examples else None
        folds = settings.gate.folds
        fold_of_votes = [each.fold(folds) for each in corpus.examples]
        fold = (inputs.draw if inputs.fold is None else inputs.fold) % folds
        self._eval_fold = fold if 2 * fold_of_votes.count(fold) <= len(fold_of_votes) else None
        self.training: list[Example] = []
        self.held_out: list[Example] = []
        for example, fold in zip(corpus.examples, fold_of_votes, strict=True):
            (self.held_out if fold == self._eval_fold else self.training).append(example)
        row = min(backbone.context_length, inputs.token_budget.row)
        longest = max(1, row - self.rl.max_tokens)
        train: list[list[int]] = []
        held_out: list[list[int]] = []
        for turn, prompt in prompts.items():
            fold = fold_of(turn, corpus.groups.get(turn), folds)
            part = held_out if fold == self._eval_fold else train
            part.append(prompt[-longest:])
        self.clusters: list[Cluster] = []
        self._tastes: dict[str, Tensor] = {}
        self._directions: int | None = None
        self.train_prompts = train or held_out
        self.eval_prompts = (held_out or train)[: settings.gate.eval_prompts]

    def generator(self, purpose: str) -> torch.Generator:
        """Returns the random numbers of one purpose, which no other purpose takes from."""
        return self.inputs.generator(self.settings.seed, purpose)

    def spec(self, samples_per_prompt: int) -> SamplingSpec:
        """Returns how this round samples, with so many replies to each prompt."""
        return SamplingSpec(samples_per_prompt, self.rl.max_tokens, **self.rl.sampling)

    def votes(self, *, held_out: bool = False) -> tuple[Votes, list[Key]]:
        """Returns the training or held-out votes for the likelihood, and the replies that they index."""
        chosen = self.held_out if held_out else self.training
        return self.corpus.votes(chosen, self.settings.reward, self._history_weights(held_out))

    def weigh_clusters(self, base: BaseFeatures, cache: FeatureCache) -> None:
        """Finds the clusters among all votes, and gives their votes the weights of clusters."""
        chosen = self.corpus.examples
        votes, keys = self.corpus.votes(chosen, self.settings.reward, self._history_weights(held_out=False))
        self.clusters = find_clusters(cache.features(keys), votes, base)
        trusted = set(self.inputs.trusted)
        factors = {
            chosen[vote].event_id: factor for vote, factor in cluster_factors(votes, self.clusters).items()
        }
        kept = {event: factor for event, factor in factors.items() if event not in trusted}
        self.corpus = replace(self.corpus, factors=kept)

    def votes_of(self, cluster: Cluster) -> list[Example]:
        """Returns the votes of a cluster."""
        return [self.corpus.examples[vote] for vote in cluster.votes]

    def _history_weights(self, held_out: bool) -> HistoryWeights:
        return self.history.history_weights(self._folds(held_out)) if self.history else NO_HISTORY

    def training_events(self) -> list[str]:
        """Returns the event ids of all training votes, the compacted ones first."""
        older = self.history.events_of_folds(self._folds(held_out=False)) if self.history else []
        return [*older, *(example.event_id for example in self.training)]

    def skip_reason(self) -> str | None:
        """Returns why the round cannot train on this data, or None."""
        if not self.train_prompts:
            return "no prompts to train on"
        votes, keys = self.votes()
        if not votes.is_informative():
            return "the votes say nothing yet: all thumbs alike, and no ranking or edit"
        if self.history is None and len({tuple(self.corpus.replies[key].token_ids) for key in keys}) == 1:
            return "all votes are on one and the same reply, perhaps an empty one: nothing is better or worse"
        if self.settings.rl.algorithm == "dpo" and not self.corpus.pairs(
            (example, 1.0) for example in self.training
        ):
            return "no vote prefers one reply to a prompt to another, and DPO trains on such pairs only"
        return None

    def fit_reward_model(
        self, base: BaseFeatures, cache: FeatureCache, *, held_out: bool = False
    ) -> RewardModel | None:
        """Fits the reward model to the training or the held-out votes; None when they are not informative.
        The tastes of the raters are what the training votes say, so these come first."""
        votes, keys = self.votes(held_out=held_out)
        if not votes.is_informative():
            return None
        raters = examples.raters(self.held_out if held_out else self.training)
        prior = self.history.prior(self._folds(held_out), raters) if self.history else None
        generator = self.generator("judges" if held_out else "members")
        votes.tastes_UT = self._known_tastes(raters)
        model = ensemble.fit(cache.features(keys), votes, base, self.settings.reward, generator, prior)
        if not held_out:
            weights_UT = model.people.mean_UT if model.people else torch.zeros(len(raters), 0)
            self._directions = weights_UT.shape[1]
            self._tastes = dict(zip(raters, weights_UT.double(), strict=True))
        return model

    def _known_tastes(self, raters: Sequence[str]) -> Tensor | None:
        """Returns the raters' weights as the training votes have them, 0 for others; None before these were
        fitted."""
        if self._directions is None:
            return None
        none = torch.zeros(self._directions, dtype=torch.float64)
        return torch.stack([self._tastes.get(rater, none) for rater in raters])

    @property
    def unseen(self) -> list[Example]:
        """The held-out votes that no policy has learned from."""
        return [example for example in self.held_out if example.unseen]

    def fit_unseen_model(
        self, base: BaseFeatures, cache: FeatureCache
    ) -> tuple[RewardModel, Votes, list[Key]] | None:
        """Fits a reward model to the unseen votes alone, and returns these with their replies; None when they
        are not informative."""
        history = self._history_weights(held_out=True)._replace(people=0.0, judges=0.0)
        votes, keys = self.corpus.votes(self.unseen, self.settings.reward, history)
        if not votes.is_informative():
            return None
        votes.tastes_UT = self._known_tastes(examples.raters(self.unseen))
        reward, generator = self.settings.reward, self.generator("unseen")
        return ensemble.fit(cache.features(keys), votes, base, reward, generator), votes, keys

    def compact(self, cache: FeatureCache, model: RewardModel) -> tuple[VoteSummary, VoteRows] | None:
        """Returns the vote summary with this round's oldest votes added, and those to be compacted anew, in
        the projections of the first one, or of `model`, and their rows; None when there are none."""
        signals = {example.event_id for example in self.corpus.examples if example.type == "signal"}
        anew = self.corpus.recompact
        newer = [event for event in self.inputs.events if event not in anew]
        events = [
            *(event for event in self.inputs.events if event in anew),
            *vote_summary.to_compact([event for event in newer if event not in signals]),
            *vote_summary.to_compact([event for event in newer if event in signals]),
        ]
        if not events or not self.corpus.examples:
            return None
        projections = model.members[0].projections
        before = self.history or VoteSummary(
            self.backbone.features_digest, self.settings, self.corpus.newest, projections
        )
        generator = self.generator("past")  # the name seeds the draws of the releases before, too
        return before.compact(self.corpus, events, cache.features, generator)

    def _folds(self, held_out: bool) -> list[int]:
        return [each for each in range(self.settings.gate.folds) if (each == self._eval_fold) == held_out]
