"""The critic finds what tokens are worth, and its gradient is that of what the policy is expected to gain."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.service import write_base
from tests.training import hyperparameters
from tests.unit.test_objectives import log_ratios, samples, train
from trainer.model import backbone as module
from trainer.model.backbone import Backbone
from trainer.model.next_token import TokenValues
from trainer.rl.advantages import leave_one_out
from trainer.rl.objectives import PolicyGradient
from trainer.rl.token_critic import TokenCritic, fit_values, sampled_share

torch.set_num_threads(1)

RL = hyperparameters(prompts_per_step=3, samples_per_prompt=4, max_tokens=8)
VOCABULARY, WIDTH, PROMPTS, EACH = 60, 20, 20, 4


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """One whose logits are computed in chunks."""
    monkeypatch.setattr(module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * 400)
    return Backbone(write_base(tmp_path / "tiny"), RL)


def written(seed: int, prompts: int = PROMPTS) -> tuple[list[list[int]], Tensor]:
    """Replies of different lengths, `EACH` to a prompt, and the number of the prompt of each."""
    rng = random.Random(seed)
    replies = [rng.choices(range(VOCABULARY), k=rng.randint(5, 30)) for _ in range(prompts * EACH)]
    return replies, torch.arange(prompts).repeat_interleave(EACH)


def test_values_are_those_of_the_embeddings_that_people_reward() -> None:
    embeddings_VD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))
    true_V = embeddings_VD @ torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    replies, prompt_N = written(2)
    subject_P = 5 * torch.randn(PROMPTS, generator=torch.Generator().manual_seed(3))  # which nobody chooses
    rewards_N = torch.stack([true_V[reply].mean() for reply in replies]) + subject_P[prompt_N]
    found = fit_values(embeddings_VD, replies, rewards_N, prompt_N)
    assert found is not None
    values_V, explained = found
    assert explained > 0.9
    assert float(torch.corrcoef(torch.stack([values_V, true_V]))[0, 1]) > 0.95
    slope = float((values_V @ (true_V - true_V.mean())) / (true_V - true_V.mean()).square().sum())
    assert slope == pytest.approx(1, abs=0.15)


def test_replies_to_prompts_with_one_are_compared_with_each_other() -> None:
    embeddings_VD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))
    replies, _ = written(2)
    rewards_N = torch.stack([embeddings_VD[reply, 0].mean() for reply in replies])
    found = fit_values(embeddings_VD, replies, rewards_N, torch.arange(len(replies)))
    assert found is not None
    assert found[1] > 0.9


def test_where_tokens_explain_nothing_there_are_no_values() -> None:
    embeddings_VD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))
    replies, prompt_N = written(2)
    noise_N = torch.randn(len(replies), generator=torch.Generator().manual_seed(9))
    assert fit_values(embeddings_VD, replies, noise_N, prompt_N) is None
    assert fit_values(embeddings_VD, replies, torch.ones(len(replies)), prompt_N) is None


def test_sampled_returns_count_by_the_samples_for_each_token() -> None:
    assert sampled_share(256, 20.0) == 1
    assert sampled_share(32, 225.0) == pytest.approx(32 / 675)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_expectations_and_their_gradients_are_those_of_autograd(
    backbone: Backbone, temperature: float
) -> None:
    of = samples(backbone)
    with torch.no_grad():
        for weight in backbone.lora_parameters()[1]:
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(4))
    values_V = torch.randn(backbone.vocab_size, generator=torch.Generator().manual_seed(5))
    values_V[backbone.eos_ids] = 0
    weights_2 = torch.tensor([1.0, -0.7])
    batch = backbone.pad(of.prompts[:3], of.replies[:3])
    mask_BR = batch.reply_mask_BR
    with backbone.full_precision():
        with backbone.reference():
            base_BRD = backbone.reply_states(batch)
        columns_BR4 = backbone.next_token(
            batch, batch.reply_tokens_BR, temperature, TokenValues(values_V, backbone.eos_ids, base_BRD)
        )
        loss = ((columns_BR4[..., 2:] @ weights_2) * mask_BR).sum()
        found = torch.autograd.grad(loss, backbone.trainable())

        def log_softmax() -> Tensor:
            whole = backbone.model(
                input_ids=batch.tokens_BT, attention_mask=batch.mask_BT, position_ids=batch.positions_BT
            ).logits[:, -batch.reply_length - 1 : -1]
            return (whole / temperature).log_softmax(-1)

        with torch.no_grad(), backbone.reference():
            base_BRV = log_softmax()
        logp_BRV = log_softmax()
        goes_on_BRV = logp_BRV.index_fill(-1, torch.tensor(backbone.eos_ids), -torch.inf).softmax(-1)
        value_BR, kl_BR = goes_on_BRV @ values_V, (logp_BRV.exp() * (logp_BRV - base_BRV)).sum(-1)
        expected_BR2 = torch.stack([value_BR, kl_BR], 2)
        expected = ((expected_BR2 @ weights_2) * mask_BR).sum()
    expected_BR2 = (expected_BR2 * mask_BR.unsqueeze(2)).detach()
    torch.testing.assert_close(columns_BR4[..., 2:].detach(), expected_BR2, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(found, torch.autograd.grad(expected, backbone.trainable()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_the_policy_writes_more_of_what_is_worth_more(backbone: Backbone) -> None:
    """Whatever the sampled returns say, where they have no share."""
    of = samples(backbone, kl_coef=0.01)
    values_V = torch.where(torch.arange(backbone.vocab_size) < 160, 4.0, -4.0)
    values_V[backbone.eos_ids] = 0
    critic = TokenCritic(values_V, 0.5, 0.0)
    of.rewards_PK.neg_()
    train(backbone, PolicyGradient(leave_one_out, 2.0, 1.0, critic), of)
    low_B = torch.tensor([sum(token < 160 for token in reply) / len(reply) for reply in of.replies])
    gains_B = log_ratios(backbone, of).flatten()
    assert float(gains_B[low_B > 0.7].mean()) > float(gains_B[low_B < 0.5].mean()) + 0.3
