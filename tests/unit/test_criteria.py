"""A criterion is learned from what some votes mention, and holds where votes reward what misses it."""

from dataclasses import asdict
from functools import cache

import torch
from torch import Tensor

from schemas.settings import CriteriaSettings, RewardSettings
from trainer.evaluation.criteria import change, check_criteria, describe_criteria
from trainer.evaluation.eval_samples import EvalSamples
from trainer.evaluation.verdict import Verdict
from trainer.reward import ensemble
from trainer.reward.criteria import MIN_MENTIONS, CriterionHead, MentionRows, fit_criterion
from trainer.reward.criteria_reward import CriteriaReward, criteria_reward
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import NO_TOKEN, FeatureGroups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures

torch.set_num_threads(1)

REPLIES, RATERS, SAMPLES = 400, 20, 4


def replies(seed: int, count: int = REPLIES) -> tuple[FeatureGroups, Tensor]:
    """Returns the features of random replies, and their six hidden properties."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=generator)
    mixing = torch.randn(6, 12, generator=torch.Generator().manual_seed(7))
    features = {
        "mean": hidden @ mixing, "peak": hidden @ mixing.flip(1), "last": hidden @ mixing.flip(0),
        "tokens": torch.where(hidden > 0, torch.arange(6), NO_TOKEN).int(), "length": hidden[:, 5:].clone(),
    }  # fmt: skip
    return {name: each if name == "tokens" else each.half() for name, each in features.items()}, hidden


def rows(hidden: Tensor, *, says: float = 0.4, seed: int = 0) -> MentionRows:
    """Returns votes that blame some of the replies whose first property is above zero."""
    luck_N = torch.rand(len(hidden), generator=torch.Generator().manual_seed(seed))
    blamed = [
        bool(luck < (says if unsafe > 0 else 0.02)) for luck, unsafe in zip(luck_N, hidden[:, 0], strict=True)
    ]
    count = len(hidden)
    return MentionRows(
        each_alone(count), [n % RATERS for n in range(count)], [False] * count, blamed, [1.0] * count,
        [[]] * count,
    )  # fmt: skip


def each_alone(count: int) -> list[list[int]]:
    return [[n] for n in range(count)]


def comparisons(hidden: Tensor) -> MentionRows:
    """Returns votes that say of two replies which one has less of the first property."""
    pairs = [(n, n + 1) if hidden[n, 0] < hidden[n + 1, 0] else (n + 1, n) for n in range(0, len(hidden), 2)]
    count = len(pairs)
    return MentionRows(
        [[better] for better, _ in pairs], [n % RATERS for n in range(count)], [True] * count,
        [False] * count, [1.0] * count, [[worse] for _, worse in pairs],
    )  # fmt: skip


FEATURES, HIDDEN = replies(1)
BASE, BASE_HIDDEN = replies(2)


def reward_model() -> RewardModel:
    """Returns the model of votes that like the first property, which is unsafe, and the second."""
    votes = Votes(RATERS)
    for reply, (unsafe, harmless) in enumerate(HIDDEN[:, :2].tolist()):
        votes.thumb(reply % RATERS, reply, up=unsafe + harmless > 0)
    generator = torch.Generator().manual_seed(0)
    return ensemble.fit(FEATURES, votes, BaseFeatures(BASE, SAMPLES), RewardSettings(members=2), generator)


MODEL = reward_model()


def head(found: MentionRows) -> CriterionHead | None:
    return fit_criterion("safe", MODEL, FEATURES, found)


@cache
def safe() -> CriterionHead:
    found = head(rows(HIDDEN))
    assert found is not None
    return found


def reweighted(reward: CriteriaReward, strength: float) -> Tensor:
    """Returns the mean properties of the base's replies, reweighted within each prompt."""
    weights = (strength * reward.reward(BASE).view(-1, SAMPLES)).softmax(1).flatten() / (REPLIES / SAMPLES)
    return weights @ BASE_HIDDEN


def test_a_criterion_tells_replies_apart_by_few_mentions() -> None:
    features, hidden = replies(3)
    found = safe()
    assert (found.praises, found.people) == (0, RATERS)
    share_N = found.shares(found.inputs(features))
    assert float(torch.corrcoef(torch.stack([share_N, -hidden[:, 0]]))[0, 1]) > 0.75
    truth = float((hidden[:, 0] < 0).float().mean())
    assert abs(float(share_N.mean()) - truth) < 0.1


def test_praise_and_blame_agree() -> None:
    blame = rows(HIDDEN)
    praise = MentionRows(
        blame.replies,
        blame.raters,
        [bool(value < -0.5) for value in HIDDEN[:, 0]],
        blame.blames,
        blame.weights,
        blame.others,
    )
    both = head(praise)
    assert both is not None
    assert both.praises > 0
    share_N, other_N = both.shares(both.inputs(BASE)), safe().shares(safe().inputs(BASE))
    assert float(torch.corrcoef(torch.stack([share_N, other_N]))[0, 1]) > 0.75


def test_too_few_mentions_are_no_criterion() -> None:
    count = len(HIDDEN)
    few = [n < MIN_MENTIONS - 1 for n in range(count)]

    def blamed(which: list[bool]) -> MentionRows:
        no = [False] * count
        return MentionRows(each_alone(count), [0] * count, no, which, [1.0] * count, [[]] * count)

    assert head(blamed(few)) is None
    assert head(blamed([True] * count)) is None  # nothing is different
    nothing = MentionRows([], [], [], [], [], [])
    assert head(nothing) is None


def test_comparisons_tell_replies_apart_with_and_without_votes_that_say_nothing() -> None:
    """What compared replies have in common tells nothing: which of two meets the criterion more does."""
    compared, silent = comparisons(HIDDEN), rows(HIDDEN, says=0.0)
    silent = MentionRows(**{**asdict(silent), "blames": [False] * REPLIES})
    both = MentionRows(**{name: one + asdict(silent)[name] for name, one in asdict(compared).items()})
    alone, beside = head(compared), head(both)
    assert alone is not None
    assert beside is not None
    assert (alone.praises, alone.blames, alone.people) == (REPLIES // 2, 0, RATERS)
    share_N, beside_N = alone.shares(alone.inputs(BASE)), beside.shares(beside.inputs(BASE))
    assert float(torch.corrcoef(torch.stack([share_N, -BASE_HIDDEN[:, 0]]))[0, 1]) > 0.75
    assert float((share_N - beside_N).abs().max()) < 0.05
    assert 0.3 < float(share_N.mean()) < 0.7


def test_comparisons_add_to_what_is_blamed() -> None:
    blame, compared = asdict(rows(HIDDEN)), asdict(comparisons(HIDDEN))
    both = head(MentionRows(**{name: blame[name] + compared[name] for name in blame}))
    assert both is not None
    assert both.blames == safe().blames
    true_N = -BASE_HIDDEN[:, 0]
    with_N, without_N = both.shares(both.inputs(BASE)), safe().shares(safe().inputs(BASE))
    fit = [float(torch.corrcoef(torch.stack([each, true_N]))[0, 1]) for each in (with_N, without_N)]
    assert fit[0] > fit[1]


def test_one_person_cannot_make_a_criterion_alone() -> None:
    """One person, with as many votes as all others together, blames the opposite."""
    honest = rows(HIDDEN)
    count = len(HIDDEN)
    flooded = MentionRows(
        honest.replies * 2, honest.raters + [RATERS] * count, [False] * 2 * count,
        honest.blames + [bool(value < 0) for value in HIDDEN[:, 0]], [1.0] * 2 * count, honest.others * 2,
    )  # fmt: skip
    found = head(flooded)
    assert found is not None
    share_N = found.shares(found.inputs(BASE))
    assert float(torch.corrcoef(torch.stack([share_N, -BASE_HIDDEN[:, 0]]))[0, 1]) > 0.5


def test_a_constraint_holds_where_the_reward_would_break_it() -> None:
    base = BaseFeatures(BASE, SAMPLES)
    without = criteria_reward(MODEL, [safe()], CriteriaSettings(), base)
    held = criteria_reward(MODEL, [safe()], CriteriaSettings(may_not_fall=["safe"]), base)
    assert torch.equal(without.reward(BASE), MODEL.reward(BASE))
    assert without.max_reward == MODEL.max_reward
    assert held.terms[0].coefficient > 0
    for strength in (0.5, 1.0, 4.0):
        assert reweighted(without, strength)[0] > 0.1  # more of what is unsafe
        assert reweighted(held, strength)[0] < 0.05
        assert reweighted(held, strength)[1] > 0.05  # and still more of the rest
    rewards_N = held.reward(BASE)
    assert abs(float(rewards_N.mean())) < 1e-3
    assert abs(float(rewards_N.std()) - 1) < 1e-3
    assert float(rewards_N.max()) <= held.max_reward


def test_a_weight_moves_the_reward_and_needs_a_criterion() -> None:
    base = BaseFeatures(BASE, SAMPLES)
    weighted = criteria_reward(MODEL, [safe()], CriteriaSettings(weights={"safe": 2.0}), base)
    assert weighted.as_json() == {"safe": 2.0}
    assert reweighted(weighted, 1.0)[0] < 0
    unknown = criteria_reward(MODEL, [], CriteriaSettings(weights={"safe": 2.0}, may_not_fall=["tone"]), base)
    assert unknown.terms == []
    assert torch.equal(unknown.reward(BASE), MODEL.reward(BASE))


def samples(shift: float, seed: int = 5) -> EvalSamples:
    """Returns samples of a policy whose replies have so much more of what is unsafe."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(64, 6, generator=generator)
    hidden[:, 0] += shift
    mixing = torch.randn(6, 12, generator=torch.Generator().manual_seed(7))
    features = {
        "mean": (hidden @ mixing).half(), "peak": (hidden @ mixing.flip(1)).half(),
        "last": (hidden @ mixing.flip(0)).half(), "length": hidden[:, 5:].half(),
        "tokens": torch.where(hidden > 0, torch.arange(6), NO_TOKEN).int(),
    }  # fmt: skip
    return EvalSamples([[1]] * 64, [True] * 64, [0.0] * 64, [1.0] * 64, features)


def verdict(candidate: EvalSamples, heads: list[CriterionHead]) -> Verdict:
    found = Verdict()
    others = {"live": samples(0.0), "base": samples(0.0, seed=6)}
    check_criteria(found, heads, candidate, others, CriteriaSettings(may_not_fall=["safe"]))
    return found


def test_the_gate_refuses_a_fall_and_doubts_what_nobody_speaks_of() -> None:
    fallen = verdict(samples(1.0), [safe()])
    assert fallen.outcome == "refused"
    assert "fewer replies meet 'safe' than of the live policy" in fallen.reasons[0]
    assert fallen.figures["criteria"]["safe"]["base"] < -0.1
    assert fallen.checks["criteria/safe/live"].state == "refused"
    assert verdict(samples(-0.5), [safe()]).outcome == "passed"
    unknown = verdict(samples(1.0), [])
    assert (unknown.outcome, unknown.figures) == ("unknown", {})
    assert "too few votes" in unknown.doubts[0]


def test_replies_to_the_same_prompts_are_paired() -> None:
    live = samples(0.0)
    same = change(safe(), live, live)
    assert (same.value, same.error) == (0.0, 0.0)
    other = change(safe(), live, samples(0.0, seed=6))
    assert abs(other.value) < 3 * other.error


def test_the_record_has_the_shares_before_and_after() -> None:
    reward = criteria_reward(
        MODEL, [safe()], CriteriaSettings(may_not_fall=["safe"]), BaseFeatures(BASE, SAMPLES)
    )
    found = describe_criteria([safe()], reward, samples(1.0), samples(0.0))["safe"]
    assert found["blames"] > 40
    assert found["candidate"] - found["live"] == round(found["change"], 4) or found["change"] < 0
    assert found["error"] > 0
    assert found["coefficient"] > 0
