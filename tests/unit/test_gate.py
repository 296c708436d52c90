"""The gate passes a better candidate; each veto refuses what it is for."""

from dataclasses import replace

import pytest
import torch

from schemas.settings import RLSettings, TrainerSettings
from tests.service import write_base
from trainer.evaluation.gate import (
    SAMPLES_PER_PROMPT,
    EvalSamples,
    GateModels,
    GateSamples,
    Verdict,
    evaluate,
    paired_gain,
    sample_eval,
)
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.evaluation.style_stats import distinct_2, most_common_share, repetition_rate
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.reward.ensemble import EnsembleMember, RewardModel
from trainer.reward.likelihood import NuisanceParameters
from trainer.reward.projection import Projection
from trainer.reward.scoring import score

torch.set_num_threads(1)

PROMPTS = 20


def samples(
    quality: float, *, seed: int = 0, kl: float = 0.05, eos_rate: float = 1.0, length: int = 12
) -> EvalSamples:
    """Returns replies of random tokens whose only feature is their quality, with noise."""
    generator = torch.Generator().manual_seed(seed)
    count = PROMPTS * SAMPLES_PER_PROMPT
    token_ids = torch.randint(3, 3000, (count, length), generator=generator).tolist()
    features = {"length": (quality + 0.1 * torch.randn(count, 1, generator=generator)).half()}
    return EvalSamples(token_ids, eos_rate, kl, 0.8, features)


def model(*slopes: float, variance: float = 0.01) -> RewardModel:
    """Returns a reward model whose members have these coefficients on the feature, with this variance."""
    projection = Projection(torch.zeros(1), torch.ones(1), torch.ones(1, 1), 1.0)
    nuisance = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(1)), 1)
    members = [
        EnsembleMember(
            {"length": projection},
            ("length",),
            torch.tensor([slope]),
            torch.tensor([[variance]]),
            0.0,
            nuisance,
        )
        for slope in slopes
    ]
    return RewardModel(members, 0.5)


def correct(share: float) -> list[float]:
    """Returns the accuracy on each of 100 questions, of which a share is answered correctly."""
    return [1.0] * round(100 * share) + [0.0] * round(100 * (1 - share))


HELD_OUT = model(0.9, 1.2)
KNOWN = KnowledgeAccuracy(base=correct(0.96), candidate=correct(0.95))


def verdict(
    candidate: EvalSamples,
    *,
    live: EvalSamples | None = None,
    trained: RewardModel | None = None,
    held_out: RewardModel | None = HELD_OUT,
    accuracy: KnowledgeAccuracy = KNOWN,
) -> Verdict:
    return evaluate(
        GateSamples(candidate, live or samples(0.0, seed=1), samples(0.0, seed=2)),
        GateModels(trained or model(1.0, 1.1), held_out),
        accuracy,
        TrainerSettings(rl=RLSettings(kl_budget=0.12)),
    )


def test_a_better_candidate_passes_with_its_figures() -> None:
    passed = verdict(samples(1.0))
    assert passed.passed
    assert passed.as_json()["reasons"] == []
    assert passed.figures["held_out_gain"] > passed.figures["held_out_error"] > 0
    assert passed.figures["knowledge"] == 0.95
    assert passed.figures["knowledge_lost"] == pytest.approx(0.01)
    assert passed.figures["knowledge_error"] > 0


def test_less_reward_by_the_held_out_votes_is_a_veto() -> None:
    failed = verdict(samples(1.0), held_out=model(-1.0, -1.1))
    assert len(failed.reasons) == 1
    assert "held_out votes" in failed.reasons[0]


def test_held_out_members_that_disagree_are_no_veto() -> None:
    assert verdict(samples(1.0), held_out=model(-1.0, 0.8)).passed


def test_without_a_held_out_model_the_gain_is_recorded_as_unknown() -> None:
    passed = verdict(samples(1.0), held_out=None)
    assert passed.passed
    assert passed.figures["held_out_gain"] is None


@pytest.mark.parametrize(
    ("candidate", "word"),
    [
        (samples(-1.0), "worse"),
        (samples(1.0, kl=0.3), "KL"),
        (samples(1.0, eos_rate=0.8), "end token"),
        (samples(1.0, length=60), "times as long"),
    ],
)
def test_each_veto(candidate: EvalSamples, word: str) -> None:
    assert word in " ".join(verdict(candidate).reasons)


def test_entropy_far_below_the_floor_is_a_veto() -> None:
    base_entropy = samples(0.0).entropy
    floor = RLSettings().entropy_floor * base_entropy
    assert verdict(replace(samples(1.0), entropy=0.9 * floor)).passed
    assert "entropy" in " ".join(verdict(replace(samples(1.0), entropy=0.7 * floor)).reasons)


def test_a_candidate_nearer_to_a_limit_than_the_live_policy_passes() -> None:
    live = replace(samples(0.0, seed=1), kl=0.4, entropy=0.1)
    assert verdict(replace(samples(1.0), kl=0.35, entropy=0.12), live=live).passed
    further = verdict(replace(samples(1.0), kl=0.45, entropy=0.08), live=live)
    assert [reason.split()[0] for reason in further.reasons] == ["KL", "entropy"]


def test_lost_knowledge_is_a_veto_and_unknown_knowledge_is_not() -> None:
    def with_accuracy(share: float) -> Verdict:
        return verdict(samples(1.0), accuracy=KnowledgeAccuracy(correct(0.96), correct(share)))

    assert "knowledge" in " ".join(with_accuracy(0.90).reasons)
    assert with_accuracy(0.95).passed
    # A drop of 2 points with a standard error of 1.4: it may well be more than the 3 that are allowed.
    assert not with_accuracy(0.94).passed
    unknown = verdict(samples(1.0), accuracy=KnowledgeAccuracy([], []))
    assert unknown.passed
    assert unknown.figures["probes"] == 0
    few = verdict(samples(1.0), accuracy=KnowledgeAccuracy([1.0] * 7, [0.0] * 7))
    assert few.figures["probes"] == 7
    assert "cannot be judged" in few.figures["knowledge_unknown"]
    enough = verdict(samples(1.0), accuracy=KnowledgeAccuracy([1.0] * 8, [0.0] * 8))
    assert "knowledge_unknown" not in enough.figures
    assert not enough.passed


def test_collapse_and_repetition_are_vetoes() -> None:
    fine = samples(1.0)
    same = EvalSamples([fine.token_ids[0]] * len(fine.token_ids), 1.0, 0.05, 0.8, fine.features)
    reasons = " ".join(verdict(same).reasons)
    assert "same reply" in reasons
    assert "few distinct" in reasons
    looping = EvalSamples([[7, 8, 9] * 4 for _ in fine.token_ids], 1.0, 0.05, 0.8, fine.features)
    assert "repeat themselves" in " ".join(verdict(looping).reasons)


def test_the_error_of_a_gain_includes_prompt_and_posterior_variance() -> None:
    better, worse = samples(1.0), samples(0.0, seed=1)
    moved = (better.features["length"] - worse.features["length"]).float()
    moved_P = moved.view(PROMPTS, SAMPLES_PER_PROMPT).mean(1)
    gain, error = paired_gain(model(1.0, 0.5, variance=0.3), better.features, worse.features)
    assert gain == pytest.approx(0.75 * float(moved_P.mean()), rel=1e-3)
    prompt_variance = 0.75**2 * float(moved_P.var()) / PROMPTS
    posterior_variance = 0.3 * float(moved_P.mean()) ** 2
    assert error == pytest.approx((prompt_variance + posterior_variance) ** 0.5, rel=1e-3)


def test_an_uncertain_reward_model_refuses_nobody() -> None:
    worse = samples(-1.0)
    assert not verdict(worse, held_out=model(1.0, variance=0.01)).passed
    unsure = verdict(worse, trained=model(1.0, variance=4.0), held_out=model(1.0, variance=4.0))
    assert unsure.passed
    assert unsure.figures["held_out_gain"] < 0


def test_repetition_and_diversity_statistics() -> None:
    assert repetition_rate([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition_rate([[1, 2]]) == 0.0
    assert distinct_2([[1, 2, 1, 2], [5, 6]]) == pytest.approx(3 / 4)
    assert most_common_share([[1], [1], [2], [3]]) == 0.5


def test_a_gain_on_a_single_prompt_has_an_error() -> None:
    one = {"length": torch.tensor([[1.0], [1.2]]).half()}
    live = {"length": torch.tensor([[0.1], [0.0]]).half()}
    gain, error = paired_gain(model(1.0, 1.1), one, live)
    assert 0 < error < gain


def test_samples_are_scored_with_the_base(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = write_base(tmp_path_factory.mktemp("gate") / "tiny")
    backbone = Backbone(directory, RLSettings())
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    spec, generator = SamplingSpec(8, 12), torch.Generator().manual_seed(0)
    assert abs(sample_eval(backbone, [prompt], spec, generator).kl) < 0.01
    for weight in backbone.trainable():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    changed = sample_eval(backbone, [prompt], spec, generator)
    assert changed.kl > 0.05
    scored = score(backbone, [prompt] * 8, changed.token_ids).features
    assert all(torch.equal(scored[name], changed.features[name]) for name in scored)
    assert abs(sample_eval(backbone, [prompt], spec, generator, base=True).kl) < 0.01
