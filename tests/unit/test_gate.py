"""The gate: what passes, and what each veto is for."""

from dataclasses import replace

import pytest
import torch

from schemas.settings import GateSettings, RLSettings
from tests.service import write_base
from trainer.evaluation.gate import (
    REPLIES,
    Answers,
    Verdict,
    alike,
    answer,
    compare,
    distinct,
    judge,
    repeated,
)
from trainer.model.backbone import Backbone
from trainer.reward.ensemble import Member, RewardModel
from trainer.reward.likelihood import Terms
from trainer.reward.projection import Lens
from trainer.reward.scoring import measure

torch.set_num_threads(1)

PROMPTS = 20


def answers(
    quality: float, *, seed: int = 0, kl: float = 0.05, ended: float = 1.0, length: int = 12
) -> Answers:
    """Replies of random tokens whose only feature is their quality, give or take."""
    generator = torch.Generator().manual_seed(seed)
    count = PROMPTS * REPLIES
    token_ids = torch.randint(3, 3000, (count, length), generator=generator).tolist()
    views = {"length": (quality + 0.1 * torch.randn(count, 1, generator=generator)).half()}
    return Answers(token_ids, ended, kl, 0.8, views)


def model(*slopes: float, variance: float = 0.01) -> RewardModel:
    """Members that like the feature by so much, and know it so well."""
    lens = Lens(torch.zeros(1), torch.ones(1), torch.ones(1, 1), 1.0)
    terms = Terms.unpack(torch.zeros(Terms.size(1)), 1)
    members = [
        Member(
            {"length": lens},
            ("length",),
            torch.tensor([slope]),
            torch.tensor([[variance]]),
            0.0,
            terms,
        )
        for slope in slopes
    ]
    return RewardModel(members, 0.5)


def share(right: float) -> list[float]:
    """100 probes of which so many were answered rightly."""
    return [1.0] * round(100 * right) + [0.0] * round(100 * (1 - right))


def verdict(candidate: Answers, **changes: object) -> Verdict:
    given: dict[str, object] = {
        "live": answers(0.0, seed=1), "base": answers(0.0, seed=2), "trained": model(1.0, 1.1),
        "held_out": model(0.9, 1.2), "knows": (share(0.95), share(0.96)),
    }  # fmt: skip
    return judge(candidate, **(given | changes), gate=GateSettings(), rl=RLSettings(kl_budget=0.12))  # type: ignore[arg-type]


def test_a_better_candidate_passes_with_its_figures() -> None:
    passed = verdict(answers(1.0))
    assert passed.passed
    assert passed.as_json()["reasons"] == []
    assert passed.figures["held_out_gain"] > passed.figures["held_out_error"] > 0
    assert passed.figures["knowledge"] == 0.95
    assert passed.figures["knowledge_lost"] == pytest.approx(0.01)
    assert passed.figures["knowledge_error"] > 0


def test_one_that_the_held_out_votes_think_worse_does_not() -> None:
    failed = verdict(answers(1.0), held_out=model(-1.0, -1.1))
    assert len(failed.reasons) == 1
    assert "held_out votes" in failed.reasons[0]


def test_held_out_votes_that_disagree_among_themselves_do_not_stop_it() -> None:
    assert verdict(answers(1.0), held_out=model(-1.0, 0.8)).passed


def test_held_out_votes_that_say_nothing_are_recorded_as_such() -> None:
    passed = verdict(answers(1.0), held_out=None)
    assert passed.passed
    assert passed.figures["held_out_gain"] is None


@pytest.mark.parametrize(
    ("candidate", "word"),
    [
        (answers(-1.0), "worse"),
        (answers(1.0, kl=0.3), "KL"),
        (answers(1.0, ended=0.8), "end by themselves"),
        (answers(1.0, length=60), "times as long"),
    ],
)
def test_each_veto(candidate: Answers, word: str) -> None:
    assert word in " ".join(verdict(candidate).reasons)


def test_entropy_far_below_the_floor_is_a_veto() -> None:
    base_entropy = answers(0.0).entropy
    floor = RLSettings().entropy_floor * base_entropy
    assert verdict(replace(answers(1.0), entropy=0.9 * floor)).passed
    assert "entropy" in " ".join(verdict(replace(answers(1.0), entropy=0.7 * floor)).reasons)


def test_what_is_beyond_a_limit_may_come_nearer_to_it() -> None:
    live = replace(answers(0.0, seed=1), kl=0.4, entropy=0.1)
    assert verdict(replace(answers(1.0), kl=0.35, entropy=0.12), live=live).passed
    further = verdict(replace(answers(1.0), kl=0.45, entropy=0.08), live=live)
    assert [reason.split()[0] for reason in further.reasons] == ["KL", "entropy"]


def test_lost_knowledge_is_a_veto_and_unknown_knowledge_is_not() -> None:
    assert "known no more" in " ".join(verdict(answers(1.0), knows=(share(0.90), share(0.96))).reasons)
    assert verdict(answers(1.0), knows=(share(0.95), share(0.96))).passed
    # 2 points lost, give or take 1.4: it may well be more than the 3 that are allowed.
    assert not verdict(answers(1.0), knows=(share(0.94), share(0.96))).passed
    unknown = verdict(answers(1.0), knows=([], []))
    assert unknown.passed
    assert unknown.figures["probes"] == 0


def test_collapse_and_repetition_are_vetoes() -> None:
    fine = answers(1.0)
    same = Answers([fine.token_ids[0]] * len(fine.token_ids), 1.0, 0.05, 0.8, fine.views)
    reasons = " ".join(verdict(same).reasons)
    assert "same reply" in reasons
    assert "few different" in reasons
    looping = Answers([[7, 8, 9] * 4 for _ in fine.token_ids], 1.0, 0.05, 0.8, fine.views)
    assert "repeat themselves" in " ".join(verdict(looping).reasons)


def test_the_error_of_a_comparison_holds_prompts_and_what_the_votes_leave_open() -> None:
    better, worse = answers(1.0), answers(0.0, seed=1)
    moved_P = (better.views["length"] - worse.views["length"]).float().view(PROMPTS, REPLIES).mean(1)
    gain, error = compare(model(1.0, 0.5, variance=0.3), better.views, worse.views)
    assert gain == pytest.approx(0.75 * float(moved_P.mean()), rel=1e-3)
    of_prompts = 0.75**2 * float(moved_P.var()) / PROMPTS
    of_votes = 0.3 * float(moved_P.mean()) ** 2
    assert error == pytest.approx((of_prompts + of_votes) ** 0.5, rel=1e-3)


def test_a_judge_that_knows_little_rejects_nobody() -> None:
    worse = answers(-1.0)
    assert not verdict(worse, held_out=model(1.0, variance=0.01)).passed
    unsure = verdict(worse, trained=model(1.0, variance=4.0), held_out=model(1.0, variance=4.0))
    assert unsure.passed
    assert unsure.figures["held_out_gain"] < 0


def test_measures_of_sameness() -> None:
    assert repeated([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repeated([[1, 2]]) == 0.0
    assert distinct([[1, 2, 1, 2], [5, 6]]) == pytest.approx(3 / 4)
    assert alike([[1], [1], [2], [3]]) == 0.5


def test_one_prompt_alone_can_be_compared() -> None:
    one = {"length": torch.tensor([[1.0], [1.2]]).half()}
    live = {"length": torch.tensor([[0.1], [0.0]]).half()}
    gain, error = compare(model(1.0, 1.1), one, live)
    assert 0 < error < gain


def test_what_a_policy_is_measured_by_is_the_base_and_not_itself(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = write_base(tmp_path_factory.mktemp("gate") / "tiny")
    backbone = Backbone(directory, RLSettings())
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    generator = torch.Generator().manual_seed(0)
    assert abs(answer(backbone, [prompt], 8, 12, generator).kl) < 0.01
    for weight in backbone.trainable():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    changed = answer(backbone, [prompt], 8, 12, generator)
    assert changed.kl > 0.05
    seen = measure(backbone, [prompt] * 8, changed.token_ids).views
    assert all(torch.equal(seen[name], changed.views[name]) for name in seen)
    assert abs(answer(backbone, [prompt], 8, 12, generator, of_base=True).kl) < 0.01
