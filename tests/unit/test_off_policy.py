"""The off-policy estimate is right where the reward model is, and where it is not, as far as votes reach."""

from dataclasses import replace
from datetime import UTC, datetime
from math import exp

import pytest
import torch
from torch import Tensor

from schemas.settings import RLSettings, TrainerSettings
from tests.service import write_base
from trainer.data.behaviour import Behaviour
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.evaluation.eval_samples import EvalSamples
from trainer.evaluation.off_policy import (
    CANDIDATE,
    Approval,
    VotedReplies,
    _by_person,
    check_approval,
    direct_approval,
    estimate_approval,
    held_out_thumbs,
    people_of,
    reply_logprobs,
    voted_replies,
)
from trainer.evaluation.verdict import Verdict
from trainer.model.backbone import Backbone
from trainer.reward.ensemble import EnsembleMember, RewardModel
from trainer.reward.likelihood import LAPSE_RATE, NuisanceParameters
from trainer.reward.projection import Projection

torch.set_num_threads(1)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PEOPLE = 40


def model(slope: float, variance: float = 0.01) -> RewardModel:
    """Returns a reward model r = slope·x of a reply whose only feature is x."""
    projection = Projection(torch.zeros(1), torch.ones(1), torch.ones(1, 1), 1.0)
    nuisance = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(1)), 1)
    member = EnsembleMember(
        {"length": projection}, ("length",), torch.tensor([slope]), torch.tensor([[variance]]), 0.0, nuisance
    )
    return RewardModel([member, member], 0.0)


def policy(mean: float, seed: int) -> EvalSamples:
    """Returns the replies of a policy that gives x ~ N(mean, 1)."""
    x_N = mean + torch.randn(64, generator=torch.Generator().manual_seed(seed))
    return EvalSamples([[1]] * 64, [True] * 64, [0.0] * 64, [1.0] * 64, {"length": x_N.unsqueeze(1).half()})


def voted(mean: float, count: int, seed: int, people: int = PEOPLE) -> VotedReplies:
    """Returns votes on replies of the policy with mean 0, of people who like x, σ(2x), and the weights of the
    candidate with this mean."""
    generator = torch.Generator().manual_seed(seed)
    x_N = torch.randn(count, generator=generator)
    liked_N = (torch.rand(count, generator=generator) < likes(x_N)).float()
    weight_N = (mean * x_N - mean**2 / 2).exp()
    names = [f"u_{number % people}" for number in range(count)]
    one_N = torch.ones(count)
    return VotedReplies(names, liked_N, {"length": x_N.unsqueeze(1).half()}, weight_N, one_N, one_N)


def likes(x: Tensor) -> Tensor:
    return (1 - LAPSE_RATE) * (2 * x).sigmoid() + LAPSE_RATE / 2


def truth(mean: float) -> float:
    return float(likes(mean + torch.randn(100_000, generator=torch.Generator().manual_seed(0))).mean())


def estimate(slope: float, mean: float, count: int, seed: int = 0) -> Approval:
    votes, others = voted(mean, count, seed), policy(0.0, 1000 + seed)
    return estimate_approval(model(slope), [0], votes, policy(mean, 2000 + seed), others)


def test_votes_correct_a_wrong_reward_model() -> None:
    wrong = [estimate(-1.0, 0.7, 400, seed).candidate.value for seed in range(20)]
    assert sum(wrong) / 20 == pytest.approx(truth(0.7), abs=0.03)
    assert direct_approval(model(-1.0), [0], policy(0.7, 1)) < truth(0.7) - 0.2
    right = [estimate(2.0, 0.7, 400, seed).candidate.value for seed in range(20)]
    assert sum(right) / 20 == pytest.approx(truth(0.7), abs=0.03)


@pytest.mark.parametrize(("slope", "mean", "count"), [(2.0, 0.7, 60), (0.0, 0.7, 120), (1.0, -0.5, 30)])
def test_the_interval_contains_the_truth(slope: float, mean: float, count: int) -> None:
    inside = 0
    for seed in range(100):
        lower, upper = estimate(slope, mean, count, seed).interval
        inside += lower <= truth(mean) <= upper
    assert inside >= 83


def test_the_change_has_a_smaller_error_than_the_approval() -> None:
    found = estimate(1.0, 0.5, 200)
    assert found.change.error < found.candidate.error
    assert found.change.value == pytest.approx(truth(0.5) - truth(0.0), abs=2 * found.change.error)
    assert (found.votes, found.people) == (200, PEOPLE)


def test_what_the_votes_do_not_reach_is_as_uncertain_as_the_reward_model() -> None:
    def error(mean: float, variance: float) -> float:
        votes = voted(mean, 200, 3)
        return estimate_approval(
            model(1.0, variance), [0], votes, policy(mean, 4), policy(0.0, 5)
        ).candidate.error

    near, far = estimate(1.0, 0.1, 200), estimate(1.0, 4.0, 200)
    assert near.coverage > 0.95
    assert far.coverage < 0.2
    assert error(0.1, 9.0) == pytest.approx(error(0.1, 0.0), rel=0.05)
    assert error(3.0, 9.0) > 2 * error(3.0, 0.0)


def test_one_person_with_many_votes_counts_once() -> None:
    alone = voted(0.0, 100, 6, people=1)
    found = estimate_approval(model(0.0), [0], alone, policy(0.0, 7), policy(0.0, 8))
    assert found.people == 1
    assert found.candidate.error > 0.3


def test_the_gate_doubts_a_wide_interval_and_refuses_a_loss() -> None:
    def outcome(found: Approval | None) -> Verdict:
        verdict = Verdict()
        check_approval(verdict, found, 0.5)
        return verdict

    assert outcome(estimate(1.0, 0.7, 800)).outcome == "passed"
    lost = outcome(estimate(1.0, -1.0, 800))
    assert lost.outcome == "refused"
    assert "liked less" in lost.reasons[0]
    wide = outcome(
        estimate_approval(model(1.0), [0], voted(0.5, 2, 9, people=2), policy(0.5, 1), policy(0, 2))
    )
    assert wide.outcome == "unknown"
    assert "leave its approval between" in wide.doubts[-1]
    nothing = outcome(None)
    assert (nothing.outcome, nothing.figures) == ("passed", {"approval": None})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("off-policy") / "tiny"), RLSettings())


def a_round(backbone: Backbone) -> tuple[RoundData, list[Key]]:
    """Returns a round of thumbs by people, and one by a judge, on random replies."""
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    keys: list[Key] = [(f"t{number}", "0") for number in range(40)]
    replies = {key: Reply(prompt, [5 + number % 7, 6, 7]) for number, key in enumerate(keys)}
    examples = [
        Example(
            f"e{number}", key[0], "thumb", {"value": "up" if number % 2 else "down"},
            "judge:x" if number == 0 else f"u_{number % 5}", (key,), NOW, False,
        )
        for number, key in enumerate(keys)
    ]  # fmt: skip
    inputs = RoundInputs(draw=1, parent="p0", votes=40, events=[], turns=[], positions={})
    data = RoundData(backbone, TrainerSettings(), inputs, Corpus(examples, replies), {"t0": prompt})
    return data, keys


def test_probabilities_are_computed_where_they_cannot_be_read(backbone: Backbone) -> None:
    data, _ = a_round(backbone)
    thumbs = held_out_thumbs(data)
    assert 0 < len(thumbs) == len(data.held_out) - sum(each.by_judge for each in data.held_out)
    own = reply_logprobs(backbone, data)
    with backbone.reference():
        base = reply_logprobs(backbone, data)
    assert own == pytest.approx(base)  # the adapter is zero
    assert set(own) == {each.reply_keys[0] for each in thumbs}
    cache = FeatureCache(backbone)
    cache.update(data.corpus)
    served = data.rl.sampling

    def weights(behaviour: Behaviour) -> Tensor | None:
        known = dict.fromkeys((each.event_id for each in thumbs), behaviour)
        found = voted_replies(data, cache, known, {CANDIDATE: own, "p0": base}, "p0")
        return None if found is None else found.candidate_N

    computed = weights(Behaviour("p0", 0.02, served, None))
    assert computed is not None
    assert computed.tolist() == pytest.approx([1.0] * len(thumbs))
    recorded = weights(Behaviour("p7-abc", 0.5, served, -1.0))
    assert recorded is not None
    expected = [exp(own[each.reply_keys[0]] + 1) for each in thumbs]
    assert recorded.tolist() == pytest.approx(expected, rel=1e-4)
    assert weights(Behaviour("p7-abc", 0.5, served, None)) is None  # neither
    for name, value in (("temperature", 1.5), ("top_p", 0.9), ("top_k", 20), ("repetition_penalty", 1.1)):
        assert weights(Behaviour("p0", 0.02, served | {name: value}, None)) is None  # sampled otherwise
    assert weights(Behaviour("p0", 0.02, served | {"logit_bias": {"5": 3}}, None)) is None
    assert len(people_of(data)) == 5


def test_the_sessions_of_one_network_are_one_person(backbone: Backbone) -> None:
    data, _ = a_round(backbone)
    examples = [
        replace(each, origin=None if each.rater in ("u_0", "judge:x") else "network")
        for each in data.corpus.examples
    ]
    corpus = replace(data.corpus, examples=examples)
    data = RoundData(backbone, TrainerSettings(), data.inputs, corpus, {"t0": data.prompts["t0"]})
    assert len(people_of(data)) == 2
    cache = FeatureCache(backbone)
    cache.update(data.corpus)
    known = {each.event_id: Behaviour("p0", 0.02, data.rl.sampling, None) for each in data.held_out}
    own = reply_logprobs(backbone, data)
    found = voted_replies(data, cache, known, {CANDIDATE: own, "p0": own}, "p0")
    assert found is not None
    assert set(found.people) - {"u_0"} == {"network"}


def test_votes_of_turns_that_could_have_been_pairs_stand_for_those_that_were() -> None:
    """Of turns that people like less, four in five became pairs: the single replies that are left mislead,
    unless each is weighed by the inverse of the probability that it was left."""
    generator = torch.Generator().manual_seed(0)
    asked_N = torch.tensor([0.0, 0.8]).repeat(10_000)
    liked_N = (asked_N == 0).float()
    left_N = torch.rand(len(asked_N), generator=generator) >= asked_N
    one_N = torch.ones(int(left_N.sum()))
    people = ["u"] * len(one_N)
    weighed = VotedReplies(people, liked_N[left_N], {}, one_N, one_N, 1 / (1 - asked_N[left_N]))
    plain = replace(weighed, turns_N=one_N)
    assert float(_by_person(weighed, weighed.liked_N)[0]) == pytest.approx(0.5, abs=0.02)
    assert float(_by_person(plain, plain.liked_N)[0]) > 0.8
