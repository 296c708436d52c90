"""The backbone: log-probabilities and gradients do not depend on chunking, checkpointing or padding."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from schemas.errors import StartError
from schemas.policies import WEIGHTS
from schemas.settings import RLSettings
from tests.contract.engines import random_model, shared_tokenizer
from trainer.model import backbone as module
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch
from trainer.model.token_budget import TokenBudget

torch.set_num_threads(1)

RL = RLSettings(rank=4, alpha=8)
REPLIES = [[9, 17, 40, 41, 42], [99, 120, 77], [3, 250, 11, 5, 9, 17, 40, 60, 61]]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    random_model(request.param, len(tokenizer)).save_pretrained(directory)
    return directory


def with_adapter(base: Path, rl: RLSettings = RL) -> Backbone:
    backbone = Backbone(base, rl)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in backbone.trainable():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return backbone


def test_a_and_b_matrices_are_all_that_is_trained_and_b_begins_at_zero(base: Path) -> None:
    backbone = Backbone(base, RL)
    a_matrices, b_matrices = backbone.lora_parameters()
    assert {id(each) for each in (*a_matrices, *b_matrices)} == {id(each) for each in backbone.trainable()}
    assert all(bool((each != 0).any()) for each in a_matrices)
    assert all(bool((each == 0).all()) for each in b_matrices)


def test_the_reference_is_written_as_the_zero_adapter(tiny_base: Path, tmp_path: Path) -> None:
    backbone = with_adapter(tiny_base)
    save_adapter(backbone, tmp_path / "own")
    with backbone.reference():
        save_adapter(backbone, tmp_path / "reference")
    own, reference = (load_file(tmp_path / name / WEIGHTS) for name in ("own", "reference"))
    assert own.keys() == reference.keys()
    for name, weight in own.items():
        assert bool(weight.any())
        assert torch.equal(reference[name], torch.zeros_like(weight) if "lora_B" in name else weight)


def batch_of(backbone: Backbone) -> PaddedBatch:
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ("hello", "a", "tell me")]
    return backbone.pad(prompts, REPLIES)


def computed(backbone: Backbone) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Returns log-probabilities, a layer's hidden states, and gradients."""
    weights_BR = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    with backbone.full_precision():
        scores = backbone.base_scores(batch_of(backbone), [1])
        logprobs_BR, hidden = scores.logprobs_BR, scores.hidden
        loss = (logprobs_BR * weights_BR[:, : logprobs_BR.shape[1]]).sum()
        gradients = list(torch.autograd.grad(loss, backbone.trainable()))
    return logprobs_BR.detach(), [each.detach() for each in hidden], gradients


def assert_same(one: Backbone, other: Backbone) -> None:
    for ours, theirs in zip(computed(one), computed(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_chunked_logits_change_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = with_adapter(base)
    assert whole._head is None
    monkeypatch.setattr(module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * whole.vocab_size)
    chunked = with_adapter(base)
    assert chunked._head is not None
    assert_same(whole, chunked)
    with torch.no_grad(), whole.reference(), chunked.reference():
        torch.testing.assert_close(whole.logprobs_BR(batch_of(whole)), chunked.logprobs_BR(batch_of(chunked)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_of_chunked_logits_are_those_of_autograd(
    base: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    whole = with_adapter(base)
    monkeypatch.setattr(module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(module, "MAX_LOGITS", 5 * whole.vocab_size)
    chunked = with_adapter(base)

    def gradients(backbone: Backbone) -> list[torch.Tensor]:
        batch = batch_of(backbone)
        others_BR = (batch.reply_tokens_BR + 1) % backbone.vocab_size
        weights_BR = torch.randn(batch.reply_mask_BR.shape, generator=torch.Generator().manual_seed(2))
        with backbone.full_precision():
            own_BR, other_BR = backbone.logprobs_with(batch, others_BR, temperature)
            loss = (own_BR * weights_BR).sum() + (other_BR * weights_BR.flip(1)).sum()
            return [own_BR.detach(), other_BR.detach(), *torch.autograd.grad(loss, backbone.trainable())]

    for ours, theirs in zip(gradients(whole), gradients(chunked), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(base: Path) -> None:
    checkpointed = with_adapter(base, RL.model_copy(update={"gradient_checkpointing": True}))
    assert_same(with_adapter(base), checkpointed)
    assert not checkpointed.model.training


def test_a_batch_above_the_budget_keeps_less_for_the_backward_pass(base: Path) -> None:
    backbone = with_adapter(base)
    batch = batch_of(backbone)
    tokens = batch.tokens_BT.numel()

    def kept(most: int) -> int:
        backbone.token_budget = TokenBudget(kept=most)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            held = backbone.logprobs_BR(batch)
        assert held.requires_grad
        return sum(sizes.values())

    assert kept(tokens - 1) < 0.7 * kept(tokens)


def test_hidden_states_are_those_that_the_model_gives_itself(base: Path) -> None:
    backbone = with_adapter(base)
    batch, last = batch_of(backbone), int(backbone.model.config.get_text_config().num_hidden_layers)
    with torch.no_grad(), backbone.full_precision():
        found = backbone.base_scores(batch, [0, 1, last]).hidden
        expected = backbone.model(
            input_ids=batch.tokens_BT, attention_mask=batch.mask_BT, position_ids=batch.positions_BT,
            use_cache=False, output_hidden_states=True,
        ).hidden_states  # fmt: skip
    for states_BRD, layer in zip(found, [0, 1, last], strict=True):
        assert torch.equal(states_BRD, expected[layer][:, -batch.reply_length :])
        assert states_BRD.untyped_storage().nbytes() == 4 * states_BRD.numel()


def test_a_model_that_transforms_its_logits_computes_them_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_VOCABULARY", 0)
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    model = random_model("gemma3", len(tokenizer))
    model.config.final_logit_softcapping = 2.0
    model.save_pretrained(tmp_path)
    capped = with_adapter(tmp_path)
    assert capped._head is None
    model.config.final_logit_softcapping = None
    model.save_pretrained(tmp_path)
    free = with_adapter(tmp_path)
    assert free._head is not None
    assert not torch.allclose(computed(capped)[0], computed(free)[0], atol=1e-2)


def test_padding_changes_nothing(base: Path) -> None:
    backbone = with_adapter(base)
    together = batch_of(backbone)
    with torch.no_grad(), backbone.full_precision():
        logprobs_BR = backbone.logprobs_BR(together)
        for row, reply in enumerate(REPLIES):
            length = int(together.mask_BT[row].sum()) - len(reply)
            prompt = together.tokens_BT[row][together.mask_BT[row].bool()][:length].tolist()
            alone_R = backbone.logprobs_BR(backbone.pad([prompt], [reply]))[0]
            torch.testing.assert_close(
                logprobs_BR[row, : len(reply)], alone_R[: len(reply)], atol=1e-5, rtol=1e-4
            )
            assert not logprobs_BR[row, len(reply) :].any()


def test_rows_may_fill_the_context(base: Path) -> None:
    backbone = with_adapter(base)
    reply = [5] * (backbone.context_length - 3)
    assert backbone.fits([1, 2, 3], reply)
    assert not backbone.fits([1, 2, 3, 4], reply)
    assert not backbone.fits([1, backbone.vocab_size], [5])
    batch = backbone.pad([[1, 2, 3]], [reply])
    assert batch.tokens_BT[batch.mask_BT.bool()].tolist() == [1, 2, 3, *reply]
    with pytest.raises(ValueError, match="in a context of"):
        backbone.pad([[1, 2, 3]], [[5] * (backbone.context_length - 2)])


def test_a_long_reply_does_not_truncate_another_rows_prompt(base: Path) -> None:
    backbone = with_adapter(base)
    long = [3 + number % 200 for number in range(backbone.context_length - 3)]
    rows = [(long, [9, 17, 40]), ([1, 2, 3], long)]
    together = backbone.pad(*zip(*rows, strict=True))
    with torch.no_grad(), backbone.full_precision():
        logprobs_BR = backbone.logprobs_BR(together)
        for row, (prompt, reply) in enumerate(rows):
            alone_R = backbone.logprobs_BR(backbone.pad([prompt], [reply]))[0]
            torch.testing.assert_close(
                logprobs_BR[row, : len(reply)], alone_R[: len(reply)], atol=1e-4, rtol=1e-4
            )
            plain = torch.tensor([prompt + reply])
            expected = backbone.model(plain).logits[0, len(prompt) - 1 : -1].log_softmax(1)
            expected_R = expected.gather(1, torch.tensor(reply)[:, None]).squeeze(1)
            torch.testing.assert_close(alone_R[: len(reply)], expected_R, atol=1e-4, rtol=1e-4)


def test_max_tokens_must_leave_room_for_a_prompt(base: Path) -> None:
    context = with_adapter(base).context_length
    assert Backbone(base, RL.model_copy(update={"max_tokens": context - 1})).context_length == context
    with pytest.raises(StartError, match=f"max_tokens = {context}"):
        Backbone(base, RL.model_copy(update={"max_tokens": context}))
