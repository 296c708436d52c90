"""What a round's record says of its data and of its training."""

from trainer.data.split import RoundData
from trainer.evaluation.criteria import describe_criteria
from trainer.evaluation.style_stats import style_stats
from trainer.learner import CandidateResult, Learner
from trainer.records import attribution, publish
from trainer.records.record import RoundRecord


def describe_data(found: RoundRecord, data: RoundData, learner: Learner) -> None:
    """Notes what a round learns from."""
    found.seed, found.draw = data.settings.seed, data.inputs.draw
    found.versions = publish.versions(learner.backbone)
    found.examples = len(data.training)
    found.examples_past = len(data.history.events) if data.history else 0
    found.examples_new = sum(not example.seen_in_training for example in data.training)
    found.unreadable = data.corpus.unreadable
    found.votes_truncated = data.corpus.truncated
    found.held_out = len(data.held_out)
    found.held_out_unseen = len(data.unseen)
    found.prompts = len(data.train_prompts)
    found.demonstrations = len(data.demonstrations) or None
    found.prompts_too_long = data.inputs.prompts_too_long
    found.knowledge = learner.knowledge.facts


def describe_training(
    found: RoundRecord, candidate: CandidateResult, data: RoundData, learner: Learner
) -> None:
    """Notes what a round has made: its figures, samples, styles, and who weighed most."""
    model, features = candidate.round.model, learner.cache.features
    accuracy = attribution.held_out_accuracy(model, *data.votes(held_out=True), features)
    found.reward_model = accuracy | model.describe_tastes() | candidate.round.heads.as_json()
    found.supervised = candidate.round.supervised_as_json()
    critic = candidate.round.critic
    found.optimization = candidate.round.optimized.as_json() | (
        {} if critic is None else {"token_critic": critic.as_json()}
    )
    found.style = {
        name: style_stats([learner.backbone.decode(reply) for reply in samples.token_ids])
        for name, samples in (
            ("live", candidate.samples.live),
            ("candidate", candidate.samples.candidate),
        )
    }
    found.samples = candidate.shown
    trained, samples = candidate.round, candidate.samples
    found.criteria = describe_criteria(trained.criteria, trained.reward, samples.candidate, samples.live)
    influence = attribution.vote_influence(model, *data.votes(), features, data.training)
    found.weightiest, found.raters = influence["weightiest"], influence["raters"]
