"""The critic finds what tokens are worth, and the adapter learns the best policy for it."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.service import write_base
from tests.training import hyperparameters
from tests.unit.test_objectives import log_ratios, samples, train
from trainer.model import backbone as module
from trainer.model.backbone import Backbone
from trainer.reward.token_values import TokenValues
from trainer.rl import losses
from trainer.rl.critic_objective import KL_SCALE, CriticRegression, best_policy_kl, critic_kl_coef
from trainer.rl.token_critic import TokenCritic, fit_critic, has_few_samples

torch.set_num_threads(1)

RL = hyperparameters(prompts_per_step=3, samples_per_prompt=4, max_tokens=8)
VOCABULARY, WIDTH, PROMPTS, EACH = 60, 20, 20, 4
ENDS = [3, 4]


def known(values_V: Tensor, rate_V: Tensor | None = None) -> TokenValues:
    """Values by occurrence, and by rate if given."""
    rate_V = torch.zeros_like(values_V) if rate_V is None else rate_V
    return TokenValues(values_V, rate_V, room=0.5, steepness=4.0)


UNKNOWN = known(torch.zeros(VOCABULARY))
"""Values of tokens of which the reward model knows nothing."""


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """One whose logits are computed in chunks."""
    monkeypatch.setattr(module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * 400)
    return Backbone(write_base(tmp_path / "tiny"), RL)


def random_rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(seed: int, prompts: int = PROMPTS) -> tuple[list[list[int]], Tensor]:
    """Replies of different lengths, `EACH` to a prompt, and the number of the prompt of each."""
    rng = random.Random(seed)
    replies = [rng.choices(range(5, VOCABULARY), k=rng.randint(5, 30)) for _ in range(prompts * EACH)]
    return replies, torch.arange(prompts).repeat_interleave(EACH)


def test_values_are_those_of_the_tokens_that_people_reward() -> None:
    output_VD = random_rows(0, VOCABULARY, WIDTH)
    true_V = output_VD @ random_rows(1, WIDTH)
    replies, prompt_N = written(2)
    subject_P = 5 * random_rows(3, PROMPTS)  # which nobody chooses
    rewards_N = torch.stack([true_V[reply].mean() for reply in replies]) + subject_P[prompt_N]
    critic = fit_critic(output_VD, ENDS, replies, rewards_N, prompt_N, UNKNOWN)
    assert critic is not None
    assert critic.explained > 0.9
    values_V = output_VD @ critic.direction_D
    assert float(torch.corrcoef(torch.stack([values_V, true_V]))[0, 1]) > 0.9
    slope = float((values_V @ (true_V - true_V.mean())) / (true_V - true_V.mean()).square().sum())
    assert slope == pytest.approx(1, abs=0.2)
    tokens = torch.tensor([token for reply in replies for token in reply])
    assert critic.variance == pytest.approx(float(values_V[tokens].var()), rel=1e-3)
    mean = float(values_V[tokens].mean())
    torch.testing.assert_close(values_V[ENDS], torch.full((2,), mean), atol=1e-4, rtol=0)


def test_what_the_reward_model_says_of_tokens_is_used_where_it_explains_the_reward() -> None:
    """One token is worth much, and the reward has as much noise beside it."""
    output_VD = random_rows(0, VOCABULARY, 50)
    replies, prompt_N = written(2)
    known_V = torch.where(torch.arange(VOCABULARY) == 7, 2.0, 0.0)
    worth_N = torch.tensor([2.0 * (7 in reply) for reply in replies])
    noisy_N = 10 * worth_N + 10 * worth_N.std() * random_rows(4, len(replies))
    found = {}
    for name, values in (("weights", known(known_V)), ("replies", UNKNOWN), ("wrong", known(-known_V))):
        critic = fit_critic(output_VD, ENDS, replies, noisy_N, prompt_N, values)
        assert critic is not None
        assert critic.by_weights == (name == "weights")
        values_V = output_VD @ critic.direction_D
        found[name] = (values_V[7] - values_V.mean()) / values_V.std()
        if critic.by_weights:
            worth = 10 * 2 * sum(map(len, replies)) / len(replies)
            assert float(values_V[7] - values_V.median()) == pytest.approx(worth, rel=0.4)
            mean = float(values_V[[token for reply in replies for token in reply]].mean())
            torch.testing.assert_close(values_V[ENDS], torch.full((2,), mean), atol=1e-2, rtol=0)
    assert found["weights"] > 1.2 * max(found["replies"], found["wrong"])


def test_a_matrix_in_bfloat16_is_averaged_in_full_precision() -> None:
    output_VD = (10 + random_rows(0, VOCABULARY, WIDTH)).bfloat16()
    replies, prompt_N = written(2)
    rewards_N = torch.stack([output_VD[reply, 0].double().mean() for reply in replies])
    half, full = (
        fit_critic(rows, ENDS, replies, rewards_N, prompt_N, UNKNOWN)
        for rows in (output_VD, output_VD.float())
    )
    assert half is not None
    assert full is not None
    torch.testing.assert_close(half.direction_D, full.direction_D)
    assert (half.variance, half.explained) == pytest.approx((full.variance, full.explained))


def test_replies_to_prompts_with_one_are_compared_with_each_other() -> None:
    output_VD = random_rows(0, VOCABULARY, WIDTH)
    replies, _ = written(2)
    rewards_N = torch.stack([output_VD[reply, 0].mean() for reply in replies])
    critic = fit_critic(output_VD, ENDS, replies, rewards_N, torch.arange(len(replies)), UNKNOWN)
    assert critic is not None
    assert critic.explained > 0.9


def test_a_reply_may_be_empty() -> None:
    output_VD = random_rows(0, VOCABULARY, 50)
    replies, prompt_N = written(2)
    replies[3] = []
    known_V = torch.where(torch.arange(VOCABULARY) == 7, 2.0, 0.0)
    rewards_N = torch.tensor([2.0 * (7 in reply) for reply in replies])
    critic = fit_critic(output_VD, ENDS, replies, rewards_N, prompt_N, known(known_V))
    assert critic is not None
    assert critic.by_weights
    assert critic.explained == pytest.approx(1)


def test_where_tokens_explain_nothing_there_is_no_critic() -> None:
    output_VD = random_rows(0, VOCABULARY, WIDTH)
    replies, prompt_N = written(2)
    assert fit_critic(output_VD, ENDS, replies, random_rows(10, len(replies)), prompt_N, UNKNOWN) is None
    assert fit_critic(output_VD, ENDS, replies, torch.ones(len(replies)), prompt_N, UNKNOWN) is None


def test_a_step_has_few_samples_by_the_length_of_its_replies() -> None:
    assert has_few_samples(16, 225.0)
    assert not has_few_samples(128, 225.0)
    assert not has_few_samples(128, 20.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_no_policy_gains_more_than_the_shifted_base(temperature: float) -> None:
    output_VD, state_D, direction_D = (
        random_rows(0, VOCABULARY, WIDTH),
        random_rows(1, WIDTH),
        random_rows(2, WIDTH),
    )
    length, beta = 8, 0.3

    def gain(shift_D: Tensor) -> float:
        """Of a policy whose hidden states are shifted by so much times the temperature, in one place."""
        base_V = (output_VD @ state_D / temperature).log_softmax(0)
        policy_V = (output_VD @ (state_D + temperature * shift_D) / temperature).log_softmax(0)
        value = policy_V.exp() @ (output_VD @ direction_D) / length
        return float(value - beta * (policy_V.exp() @ (policy_V - base_V)))

    best_D = direction_D / (beta * length)
    others = [gain(best_D + 0.3 * random_rows(seed, WIDTH)) for seed in range(3, 30)]
    assert gain(best_D) > max(*others, gain(0 * best_D), gain(0.8 * best_D), gain(1.2 * best_D))

    def loss(shift_D: Tensor) -> float:
        mask_BT = torch.ones(1, length)
        shift_BTD = shift_D.expand(1, length, WIDTH)
        return float(losses.state_shift(shift_BTD, direction_D, 2.0, mask_BT, mask_BT / length, beta))

    assert loss(best_D) == pytest.approx(0, abs=1e-9)
    # Along the direction it is β·KL − value up to a constant, with a KL of s²·variance/2.
    for shift in (0.0, 0.2):
        lost = beta * 2.0 * (shift - 1 / (beta * length)) ** 2 / 2
        assert loss(shift * direction_D) == pytest.approx(lost, rel=1e-4)


def test_a_thought_is_not_shifted() -> None:
    critic = TokenCritic(random_rows(2, WIDTH), 1.0, 0.5)
    judged_BT = torch.tensor([[0.0, 0, 1, 1, 1, 0]])
    shift_BTD = torch.zeros(1, 6, WIDTH)
    shift_BTD[0, 2:5] = critic.direction_D / (0.5 * 3)
    weight_BT = critic.places(torch.zeros(1, 6, dtype=torch.long), judged_BT) / 3
    loss = losses.state_shift(shift_BTD, critic.direction_D, 1.0, torch.ones(1, 6), weight_BT, 0.5)
    assert float(loss) == pytest.approx(0)


def test_a_token_gains_once_by_its_occurrence_and_each_time_by_its_rate() -> None:
    values = known(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.1, 0.0, 0.2]))
    tokens_BT = torch.tensor([[1, 0, 1, 2, 2], [2, 1, 0, 0, 1]])
    mask_BT = torch.tensor([[1.0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    expected_BT = torch.tensor([[2.0, 0.1, 0.0, -0.8, 0.2], [0.0, 0.0, 0.1, 0.1, 2.0]])
    torch.testing.assert_close(values.gains(tokens_BT, mask_BT), expected_BT)


def test_values_fall_once_a_reply_has_gained_what_the_best_of_the_base_have() -> None:
    """The room is half a logit: one token with a value of 1 fills it, and what others gain does not."""
    values = known(torch.tensor([0.0, 1.0, 0.4]))
    critic = TokenCritic(random_rows(2, WIDTH), 1.0, 0.5, values)
    tokens_BT = torch.tensor([[0, 1, 0, 1, 0], [0, 2, 0, 0, 0]])
    places_BT = critic.places(tokens_BT, torch.ones(2, 5))
    sigmoid = 1 / (1 + math.exp(-4 * 0.5))
    fallen = 4 * sigmoid * (1 - sigmoid)
    torch.testing.assert_close(places_BT, torch.tensor([[1, 1, fallen, fallen, fallen], [1.0] * 5]))
    # The base's replies gain as much in each place: nothing is saturated by what they all have.
    usual = replace(critic, values=known(torch.zeros(3), torch.tensor([0.5, 1.5, 0.5])), mean_gain=0.5)
    torch.testing.assert_close(usual.places(tokens_BT, torch.ones(2, 5))[1], torch.ones(5))


def test_the_policy_writes_more_of_what_is_worth_more(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.03)
    output_VD = backbone.model.get_output_embeddings().weight.detach()
    values_V = torch.where(torch.arange(backbone.vocab_size) < 160, 1.0, -1.0)
    direction_D = torch.linalg.lstsq(output_VD, values_V.unsqueeze(1)).solution.squeeze(1)
    train(backbone, CriticRegression(TokenCritic(direction_D, 1.0, 0.5), 0.004), of)
    worth_B = torch.stack([(output_VD @ direction_D)[reply].mean() for reply in of.replies])
    gains_B = log_ratios(backbone, of).flatten()
    upper_B = worth_B > worth_B.median()
    assert float(gains_B[upper_B].mean()) > float(gains_B[~upper_B].mean()) + 0.3


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_best_policy_is_within_the_kl_budget(backbone: Backbone, temperature: float) -> None:
    of = samples(backbone)
    prompts = [list(prompt) for prompt in dict.fromkeys(map(tuple, of.prompts))]
    critic = TokenCritic(0.1 * random_rows(4, backbone.model.config.hidden_size), 1.0, 0.5)
    kl = best_policy_kl(critic, backbone, temperature, of.prompts, of.rollouts)
    beta, found = (kl / 0.01) ** 0.5, 0.0  # 0.01 nats a reply
    for prompt, reply in zip(of.prompts, of.replies, strict=True):
        padded = backbone.pad([prompt], [reply])
        states_RD = backbone.base_states(padded)[0]
        shift_D = temperature * critic.direction_D / (beta * len(reply))
        head = backbone.model.get_output_embeddings()
        with torch.no_grad():
            base_RV, policy_RV = (
                (head(states) / temperature).log_softmax(1) for states in (states_RD, states_RD + shift_D)
            )
        found += float((policy_RV.exp() * (policy_RV - base_RV)).sum()) / len(of.replies)
    assert found == pytest.approx(0.01, rel=0.05)
    rl = RL.model_copy(update={"temperature": temperature, "kl_coef": 0.0, "kl_per_reply": 0.01})
    assert critic_kl_coef(critic, backbone, rl, prompts, of.rollouts) == pytest.approx(beta)
    large = rl.model_copy(update={"kl_coef": 1e3})
    assert critic_kl_coef(critic, backbone, large, prompts, of.rollouts) == KL_SCALE * 1e3


def test_minibatches_have_one_reply_to_each_prompt(backbone: Backbone) -> None:
    of = samples(backbone)
    parts = of.minibatches()
    assert len(parts) == RL.samples_per_prompt
    for number, part in enumerate(parts):
        assert part.prompts == of.prompts[:: RL.samples_per_prompt]
        assert part.replies == of.replies[number :: RL.samples_per_prompt]
        assert part.base_logprobs == of.base_logprobs[number :: RL.samples_per_prompt]
        assert part.rewards_PK.tolist() == of.rewards_PK[:, number : number + 1].tolist()
