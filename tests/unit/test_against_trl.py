"""The policy update's losses and their gradients are TRL's, on random tensors.

TRL's losses are methods of its trainers, so a trainer that has nothing but the settings that a loss reads
calls them, with a model that returns given logprobs.
"""

import warnings
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from trainer.reward.scoring import kl_per_reply
from trainer.rl import advantages, losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports vLLM and much else
    from trl import DPOTrainer, GRPOTrainer, KTOTrainer

torch.set_num_threads(1)

BETA = 0.3
SEEDS = range(5)


def a_trainer(**settings: Any) -> MagicMock:
    """Gathers from no other process; what it is not told of, nothing depends on."""
    accelerator = MagicMock(device=torch.device("cpu"), num_processes=1)
    for name in ("gather", "gather_for_metrics"):
        setattr(accelerator, name, lambda tensor: tensor)
    accelerator.reduce = lambda tensor, reduction: tensor
    common = {"aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1, "beta": BETA}
    model = MagicMock(training=False)
    return MagicMock(accelerator=accelerator, model=model, **common, **settings)


def a_model(logprobs_BT: Tensor) -> MagicMock:
    """Says these of the tokens after the first."""
    zeros_BT = torch.zeros_like(logprobs_BT).detach()
    outputs = SimpleNamespace(
        log_probs=logprobs_BT, entropy=zeros_BT, mean_logits=zeros_BT, is_top1=zeros_BT.bool()
    )
    return MagicMock(training=False, return_value=outputs)


def random_replies(seed: int, rows: int = 6, tokens: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs (with gradient, 0 where padded), the reference's and the mask of ragged replies."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, tokens + 1, (rows,), generator=generator)
    mask_BT = (torch.arange(tokens) < lengths_B.unsqueeze(1)).double()
    logprobs_BT, reference_BT = (
        -torch.rand(rows, tokens, generator=generator, dtype=torch.float64) * 3 * mask_BT for _ in range(2)
    )
    return logprobs_BT.requires_grad_(), reference_BT, mask_BT


def inputs_of(mask_BT: Tensor) -> dict[str, Tensor]:
    """As after a collator: one token of a prompt, then the reply."""
    ones_B1 = torch.ones(len(mask_BT), 1)
    ids_BT = torch.ones(len(mask_BT), mask_BT.shape[1] + 1, dtype=torch.long)
    completion_BT = torch.cat([0 * ones_B1, mask_BT], 1).long()
    return {"input_ids": ids_BT, "attention_mask": ids_BT, "completion_mask": completion_BT}


def assert_same(ours: Tensor, theirs: Tensor, logprobs_BT: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, check_dtype=False)
    gradients = [torch.autograd.grad(loss, logprobs_BT, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)
    assert float(gradients[0].abs().max()) > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo(seed: int) -> None:
    logprobs_BT, reference_BT, mask_BT = random_replies(seed)
    reference_B = reference_BT.sum(1)
    trainer = a_trainer(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=["sigmoid"],
        loss_weights=[1.0], use_weighting=False,
    )  # fmt: skip
    more = {"ref_chosen_logps": reference_B[:3], "ref_rejected_logps": reference_B[3:]}
    theirs = DPOTrainer._compute_loss(
        trainer, a_model(logprobs_BT * mask_BT), inputs_of(mask_BT) | more, False
    )
    ratio_B = kl_per_reply(logprobs_BT, reference_BT, mask_BT)
    assert_same(losses.dpo(ratio_B[:3], ratio_B[3:], BETA).mean(), theirs, logprobs_BT)


@pytest.mark.parametrize("seed", SEEDS)
def test_kto(seed: int) -> None:
    logprobs_BT, reference_BT, mask_BT = random_replies(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    good_B = torch.tensor([True, False, True, True, False, False])
    of_others_B = torch.randn(6, generator=generator, dtype=torch.float64)
    trainer = a_trainer(
        precompute_ref_logps=True, calculate_KL=True, loss_type="kto", desirable_weight=1.0,
        undesirable_weight=1.0, _compute_kl_logps=lambda model, batch: of_others_B,
    )  # fmt: skip
    more = {"label": good_B, "ref_logps": reference_BT.sum(1), "ref_KL_logps": 0 * of_others_B}
    theirs = KTOTrainer._compute_loss(
        trainer, a_model(logprobs_BT * mask_BT), inputs_of(mask_BT) | more, False
    )
    ratio_B = kl_per_reply(logprobs_BT, reference_BT, mask_BT)
    ours = losses.kto(ratio_B, good_B, max(0.0, float(of_others_B.mean())), BETA).mean()
    assert_same(ours, theirs, logprobs_BT)


@pytest.mark.parametrize("seed", SEEDS)
def test_policy_gradient(seed: int) -> None:
    """As GRPO's with one denominator for the batch, weighted against the sampler, at a batch's only step."""
    logprobs_BT, _, mask_BT = random_replies(seed)
    generator = torch.Generator().manual_seed(200 + seed)
    old_BT = logprobs_BT.detach()
    sampler_BT = old_BT + 0.8 * torch.randn(old_BT.shape, generator=generator, dtype=torch.float64)
    advantages_B = advantages.group_mean(torch.randn(2, 3, generator=generator, dtype=torch.float64)).view(-1)
    trainer = a_trainer(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        loss_type="bnpo", epsilon_low=0.2, epsilon_high=0.2, use_vllm=True, _entropy_bonus_enabled=False,
        vllm_importance_sampling_correction=True, args=SimpleNamespace(delta=None),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs_BT, torch.zeros_like(old_BT), None),
    )  # fmt: skip
    trainer.beta = 0.0
    ids_BT = torch.ones_like(mask_BT).long()
    theirs = GRPOTrainer._compute_loss(
        trainer,
        trainer.model,
        {
            "prompt_ids": ids_BT[:, :1], "prompt_mask": ids_BT[:, :1], "completion_ids": ids_BT,
            "completion_mask": mask_BT, "advantages": advantages_B, "old_per_token_logps": old_BT,
            "importance_sampling_ratio": (old_BT - sampler_BT).exp().clamp(max=2.0),
        },
    )  # fmt: skip
    ours = losses.policy_gradient(
        logprobs_BT, sampler_BT, advantages_B.unsqueeze(1), mask_BT, importance_weight_cap=2.0
    )
    assert_same(ours, theirs, logprobs_BT)
