"""The gate passes a better candidate; each veto refuses what it is for."""

from dataclasses import replace

import pytest
import torch

import serving.console.verdict
from schemas.settings import GateSettings, RLSettings, TrainerSettings
from tests.service import write_base
from trainer.evaluation.estimate import Estimate
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples, sample_eval
from trainer.evaluation.evidence import Evidence, rank_accuracy
from trainer.evaluation.gate import (
    GateModels,
    GateSamples,
    check_common_reply,
    check_end_tokens,
    check_evidence,
    evaluate,
    paired_gain,
)
from trainer.evaluation.influence import Influence, influence_of
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.evaluation.style_stats import distinct_2, most_common_share, repetition_rate
from trainer.evaluation.verdict import Verdict
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.reward.ensemble import EnsembleMember, RewardModel
from trainer.reward.likelihood import NuisanceParameters, Votes
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
    ended = [number < round(eos_rate * count) for number in range(count)]
    return EvalSamples(token_ids, ended, [kl * length] * count, [0.8 * length] * count, features)


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
SURE = Evidence(HELD_OUT, 80, Estimate(0.7, 0.03))
KNOWN = KnowledgeAccuracy(base=correct(0.96), candidate=correct(0.95))


def verdict(
    candidate: EvalSamples,
    *,
    live: EvalSamples | None = None,
    trained: RewardModel | None = None,
    held_out: RewardModel | None = HELD_OUT,
    evidence: Evidence | None = SURE,
    accuracy: KnowledgeAccuracy = KNOWN,
    gate: GateSettings | None = None,
) -> Verdict:
    return evaluate(
        GateSamples(candidate, live or samples(0.0, seed=1), samples(0.0, seed=2)),
        GateModels(trained or model(1.0, 1.1), held_out, evidence),
        accuracy,
        TrainerSettings(rl=RLSettings(kl_per_reply=1.44), gate=gate or GateSettings()),
    )


def test_a_candidate_shown_to_be_no_worse_passes_with_its_figures() -> None:
    passed = verdict(samples(1.0))
    assert (passed.outcome, passed.reasons, passed.doubts) == ("passed", [], [])
    assert passed.as_json()["passed"] is True
    figures = passed.figures
    assert figures["unseen_gain"] > 1.645 * figures["unseen_error"] > 0
    assert figures["detectable"] == pytest.approx((1.645 + 0.842) * figures["unseen_error"], rel=1e-2)
    assert 0 < figures["detectable_points"] < 100
    assert (figures["unseen_votes"], figures["unseen_accuracy"]) == (80, 0.7)
    assert figures["knowledge"] == 0.95
    assert figures["knowledge_lost"] == pytest.approx(0.01)
    assert figures["knowledge_error"] > 0


def test_the_verdict_records_what_it_decided_about_each_figure() -> None:
    """The end tokens, KL and entropy are beyond the base's limits, and within the live policy's."""
    live = samples(0.0, seed=1, kl=0.4, eos_rate=0.7)
    live = replace(live, entropy_N=[0.1 * 12] * len(live.ended))
    candidate = samples(1.0, kl=0.35, eos_rate=0.8)
    candidate = replace(candidate, entropy_N=[0.12 * 12] * len(candidate.ended))
    found = verdict(candidate, live=live).as_json()
    assert found["outcome"] == "passed"
    checks = found["checks"]
    assert {each["state"] for each in checks.values()} == {"good"}
    assert set(checks) == {
        "trained_gain", "held_out_gain", "unseen_gain", "length_ratio", "ended", "kl", "entropy", "repeated",
        "distinct", "alike", "knowledge_lost",
    }  # fmt: skip
    limits = {name: each["limit"] for name, each in checks.items()}
    assert (limits["ended"], limits["kl"]) == (pytest.approx(0.7), pytest.approx(0.4 * 12))
    assert limits["entropy"] == pytest.approx(0.1)
    assert (limits["length_ratio"], limits["unseen_gain"]) == (GateSettings().max_length_ratio, 0.0)
    assert checks["ended"]["found"] == pytest.approx(0.8)
    assert checks["ended"]["error"] > 0
    shown = serving.console.verdict.checks(found)
    assert [each["state"] for each in shown] == ["good"] * len(checks)
    refused = verdict(samples(-1.0, kl=0.3)).as_json()["checks"]
    assert refused["kl"]["state"] == refused["held_out_gain"]["state"] == "refused"
    assert refused["unseen_gain"]["state"] == "unknown"


def test_without_unseen_votes_the_verdict_is_unknown() -> None:
    unknown = verdict(samples(1.0), held_out=None, evidence=None)
    assert unknown.outcome == "unknown"
    assert "no difference could be detected" in unknown.doubts[0]
    assert unknown.as_json()["passed"] is False
    assert unknown.figures["held_out_gain"] is None
    assert unknown.figures["detectable"] is None


def test_a_certain_model_that_knows_nothing_passes_nobody() -> None:
    guess = Evidence(HELD_OUT, 8, Estimate(0.6, 0.09))
    unknown = verdict(samples(1.0), evidence=guess)
    assert unknown.outcome == "unknown"
    assert "no better than chance" in unknown.doubts[0]


def test_equal_policies_pass_one_time_in_twenty() -> None:
    passed = 0
    for seed in range(200):
        verdict = Verdict()
        equal = GateSamples(samples(0.0, seed=seed), samples(0.0, seed=1000 + seed), samples(0.0, seed=2))
        check_evidence(verdict, SURE, equal, 0.0)
        passed += verdict.outcome == "passed"
        assert verdict.outcome == "passed" or "could have shown" in verdict.doubts[0]
    assert 2 <= passed <= 20


def resting_on(*added: float) -> Evidence:
    """Returns evidence to whose coefficients the raters a, b, … and the pair of a and b add so much."""
    names = [(chr(97 + number),) for number in range(len(added))]
    shift_G1 = torch.tensor([*added, added[0] + added[1]]).unsqueeze(1)
    return replace(SURE, influence=Influence([*names, ("a", "b")], [shift_G1, shift_G1]))


def test_a_verdict_that_rests_on_nobody_passes() -> None:
    passed = verdict(samples(1.0), evidence=resting_on(0.1, 0.1, 0.1))
    assert (passed.outcome, passed.rests_on) == ("passed", ())
    assert passed.figures["influence_raters"] == 2
    assert passed.figures["influence_gain"] == pytest.approx(
        passed.figures["unseen_gain"] - passed.figures["influence"], abs=1e-3
    )


def test_a_verdict_that_rests_on_one_rater_is_unknown() -> None:
    unknown = verdict(samples(1.0), evidence=resting_on(1.5, -0.7, 0.1))
    assert (unknown.outcome, unknown.rests_on) == ("unknown", ("a",))
    assert unknown.checks["influence_gain"].state == "unknown"
    assert unknown.doubts[0].startswith("without one rater")


def test_a_verdict_that_rests_on_raters_of_one_group_is_unknown() -> None:
    unknown = verdict(samples(1.0), evidence=resting_on(0.6, 0.6, 0.1))
    assert (unknown.outcome, unknown.rests_on) == ("unknown", ("a", "b"))
    assert "2 raters" in unknown.doubts[0]


def test_the_influence_of_few_people_is_not_looked_for() -> None:
    votes = Votes(2)
    for reply in range(4):
        votes.thumb(reply % 2, reply, up=reply < 2)
    assert influence_of(HELD_OUT, samples(0.0).features, votes, ["a", "b"], {}) is None


def test_the_influence_of_a_rater_is_what_their_votes_push() -> None:
    votes = Votes(3)
    for reply in range(30):
        votes.thumb(reply % 3, reply, up=reply % 3 != 0)
    features = {"length": torch.ones(30, 1).half()}
    nuisance = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(3)).double(), 3)
    fitted = replace(HELD_OUT, members=[replace(each, nuisance=nuisance) for each in HELD_OUT.members])
    found = influence_of(fitted, features, votes, ["down", "up", "also"], {"both": ["up", "also", "gone"]})
    assert found is not None
    assert found.groups == [("down",), ("up",), ("also",), ("also", "up")]
    down, up, also, both = found.shifts[0].flatten().tolist()
    assert down < 0 < up == pytest.approx(also)
    assert both == pytest.approx(up + also)


def test_a_margin_passes_a_candidate_that_loses_no_more_than_it() -> None:
    found = GateSamples(samples(-0.1), samples(0.0, seed=1), samples(0.0, seed=2))

    def outcome(max_loss: float) -> str:
        verdict = Verdict()
        check_evidence(verdict, SURE, found, max_loss)
        return verdict.outcome

    assert [outcome(0.0), outcome(0.1), outcome(0.3)] == ["unknown", "unknown", "passed"]


def test_less_reward_by_the_held_out_votes_is_a_veto() -> None:
    failed = verdict(samples(1.0), held_out=model(-1.0, -1.1))
    assert failed.outcome == "refused"
    assert len(failed.reasons) == 1
    assert "held_out votes" in failed.reasons[0]


def test_held_out_members_that_disagree_are_no_veto() -> None:
    assert not verdict(samples(1.0), held_out=model(-1.0, 0.8)).refused


@pytest.mark.parametrize(
    ("candidate", "word"),
    [
        (samples(-1.0), "worse"),
        (samples(1.0, kl=0.3), "KL"),
        (samples(1.0, eos_rate=0.75), "end token"),
        (samples(1.0, length=60), "times as long"),
    ],
)
def test_each_veto(candidate: EvalSamples, word: str) -> None:
    assert word in " ".join(verdict(candidate).reasons)


def test_one_end_token_of_ten_is_no_veto_where_the_base_has_one_of_six() -> None:
    """Such a base would be refused itself every second time by a limit without an error bar."""
    few = samples(1.0, eos_rate=0.1)
    ten = replace(
        few,
        token_ids=few.token_ids[:10],
        ended=[True] + [False] * 9,
        kl_N=few.kl_N[:10],
        entropy_N=few.entropy_N[:10],
    )
    base = replace(samples(0.0, seed=2), ended=[number % 6 == 0 for number in range(2 * PROMPTS)])
    found = Verdict()
    check_end_tokens(found, GateSamples(ten, base, base), GateSettings())
    assert found.outcome == "unknown"
    check_end_tokens(found, GateSamples(samples(1.0, eos_rate=0), samples(0.0), samples(0.0)), GateSettings())
    assert found.outcome == "refused"


def test_prompts_whose_replies_never_end_are_no_fault_of_the_candidate() -> None:
    """The base answers other prompts, and the live policy the same."""
    candidate, live = samples(1.0, eos_rate=0.75), samples(0.0, seed=1, eos_rate=0.75)
    found = Verdict()
    check_end_tokens(found, GateSamples(candidate, live, samples(0.0, seed=2)), GateSettings())
    assert found.outcome == "passed"


def test_a_figure_beyond_its_limit_within_two_errors_is_unknown() -> None:
    noisy = samples(1.0, kl=0.16)
    spread = [0.2] * PROMPTS + [1.8] * PROMPTS
    noisy = replace(noisy, kl_N=[kl * factor for kl, factor in zip(noisy.kl_N, spread, strict=True)])
    assert noisy.kl == pytest.approx(0.16)
    unknown = verdict(noisy)
    assert unknown.outcome == "unknown"
    assert "KL" in unknown.doubts[0]
    assert unknown.checks["kl"].state == "unknown"
    assert "may be chance" in unknown.doubts[0]


def test_entropy_far_below_the_floor_is_a_veto() -> None:
    def with_entropy(share: float) -> Verdict:
        candidate = samples(1.0)
        floor = RLSettings().entropy_floor
        return verdict(replace(candidate, entropy_N=[share * floor * each for each in candidate.entropy_N]))

    assert with_entropy(0.9).outcome == "passed"
    assert "entropy" in " ".join(with_entropy(0.7).reasons)


def test_a_candidate_nearer_to_a_limit_than_the_live_policy_passes() -> None:
    def at(quality: float, kl: float, entropy: float, seed: int = 0) -> EvalSamples:
        found = samples(quality, kl=kl, seed=seed)
        return replace(found, entropy_N=[entropy / 0.8 * each for each in found.entropy_N])

    live = at(0.0, 0.4, 0.1, seed=1)
    assert verdict(at(1.0, 0.35, 0.12), live=live).outcome == "passed"
    further = verdict(at(1.0, 0.45, 0.08), live=live)
    assert [reason.split()[0] for reason in further.reasons] == ["KL", "entropy"]


def test_lost_knowledge_is_a_veto_and_unknown_knowledge_is_not() -> None:
    def with_accuracy(share: float) -> Verdict:
        return verdict(samples(1.0), accuracy=KnowledgeAccuracy(correct(0.96), correct(share)))

    assert "knowledge" in " ".join(with_accuracy(0.90).reasons)
    assert with_accuracy(0.95).outcome == "passed"
    # A drop of 2 points with a standard error of 1.4: it may be chance, and more than the 3 that are allowed.
    assert with_accuracy(0.94).outcome == "unknown"
    unknown = verdict(samples(1.0), accuracy=KnowledgeAccuracy([], []))
    assert unknown.outcome == "passed"
    assert unknown.figures["probes"] == 0
    few = verdict(samples(1.0), accuracy=KnowledgeAccuracy([1.0] * 7, [0.0] * 7))
    assert few.figures["probes"] == 7
    assert "cannot be judged" in few.figures["knowledge_unknown"]
    enough = verdict(samples(1.0), accuracy=KnowledgeAccuracy([1.0] * 8, [0.0] * 8))
    assert "knowledge_unknown" not in enough.figures
    assert enough.refused


def test_a_drop_on_a_few_questions_may_be_chance() -> None:
    few = KnowledgeAccuracy([1.0] * 10, [0.5] + [1.0] * 9)
    assert verdict(samples(1.0), accuracy=few).outcome == "unknown"


def test_collapse_and_repetition_are_vetoes() -> None:
    fine = samples(1.0)
    same = replace(fine, token_ids=[fine.token_ids[0]] * len(fine.token_ids))
    reasons = " ".join(verdict(same).reasons)
    assert "same reply" in reasons
    assert "few distinct" in reasons
    two, found = replace(fine, token_ids=[[5, 6], [7, 8]]), Verdict()
    check_common_reply(found, GateSamples(two, two, fine))
    assert found.checks["alike"].state == "good"
    looping = replace(fine, token_ids=[[7, 8, 9] * 4 for _ in fine.token_ids])
    assert "repeat themselves" in " ".join(verdict(looping).reasons)


def test_the_error_of_a_gain_includes_prompt_and_posterior_variance() -> None:
    better, worse = samples(1.0), samples(0.0, seed=1)
    moved = (better.features["length"] - worse.features["length"]).float()
    moved_P = moved.view(PROMPTS, SAMPLES_PER_PROMPT).mean(1)
    found = paired_gain(model(1.0, 0.5, variance=0.3), better.features, worse.features)
    assert found.value == pytest.approx(0.75 * float(moved_P.mean()), rel=1e-3)
    prompt_variance = 0.75**2 * float(moved_P.var()) / PROMPTS
    posterior_variance = 0.3 * float(moved_P.mean()) ** 2
    assert found.error == pytest.approx((prompt_variance + posterior_variance) ** 0.5, rel=1e-3)


def test_an_uncertain_reward_model_refuses_nobody() -> None:
    worse = samples(-1.0)
    assert verdict(worse, held_out=model(1.0, variance=0.01)).refused
    unsure = verdict(worse, trained=model(1.0, variance=4.0), held_out=model(1.0, variance=4.0))
    assert unsure.outcome == "unknown"
    assert unsure.figures["held_out_gain"] < 0


def test_the_rank_accuracy_has_the_error_of_chance() -> None:
    liked = torch.tensor([True] * 30 + [False] * 30)
    perfect = rank_accuracy(torch.cat([torch.ones(30), torch.zeros(30)]), liked)
    assert perfect.value == 1.0
    generator = torch.Generator().manual_seed(0)
    drawn = [rank_accuracy(torch.rand(60, generator=generator), liked).value for _ in range(500)]
    assert float(torch.tensor(drawn).std()) == pytest.approx(perfect.error, rel=0.1)
    assert rank_accuracy(torch.zeros(3), torch.tensor([True] * 3)) == Estimate(0.5, 0.5)


def test_repetition_and_diversity_statistics() -> None:
    assert repetition_rate([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition_rate([[1, 2]]) == 0.0
    assert distinct_2([[1, 2, 1, 2], [5, 6]]) == pytest.approx(3 / 4)
    assert most_common_share([[1], [1], [2], [3]]) == 0.5


def test_a_gain_on_a_single_prompt_has_an_error() -> None:
    one = {"length": torch.tensor([[1.0], [1.2]]).half()}
    live = {"length": torch.tensor([[0.1], [0.0]]).half()}
    gain = paired_gain(model(1.0, 1.1), one, live)
    assert 0 < gain.error < gain.value


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


def test_a_longer_thought_is_no_longer_reply() -> None:
    """Thirty tokens of thought before the same answers change neither length nor its ratio."""
    opening, closing = 1, 2
    plain = samples(1.0)
    thoughtful = replace(
        plain,
        token_ids=[[opening, *[7] * 30, closing, *reply] for reply in plain.token_ids],
        think_ids=(opening, closing),
    )
    assert thoughtful.mean_length == plain.mean_length == 12
    assert verdict(thoughtful).figures["length_ratio"] == verdict(plain).figures["length_ratio"] == 1.0
