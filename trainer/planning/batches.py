"""Batches profiles one batch of each kind of work in a round, by the trainer's own code on fake tensors."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.batch import padded_width
from trainer.model.device import Rates
from trainer.model.rollouts import MAX_ROWS, Rollout, SamplingSpec
from trainer.model.token_sampling import NUCLEUS_TOKENS, sample_tokens
from trainer.planning.fake_model import FakeBackbone
from trainer.planning.op_profiler import OpProfiler
from trainer.reward import features
from trainer.reward.scoring import MAX_PREFIXES, MICRO_BATCH, PREFIX_STRIDE, Scored
from trainer.rl import advantages
from trainer.rl.batch import Batch
from trainer.rl.objectives import PolicyGradient
from trainer.rl.trust_region import MAX_REPLIES, MEASURED_TOKENS, MIN_REPLIES


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: seconds, floating point operations, and its peak memory in bytes by kind of tensor."""

    seconds: float = 0.0
    flops: float = 0.0
    peak: Counter[str] = field(default_factory=Counter)

    def scaled(self, count: float) -> "Work":
        return Work(self.seconds * count, self.flops * count, self.peak)

    def then(self, other: "Work") -> "Work":
        higher = max(self.peak, other.peak, key=Counter.total)
        return Work(self.seconds + other.seconds, self.flops + other.flops, higher)


class Batches:
    """Profiles one batch of each kind of work, once: all prompts have `length` tokens, all replies
    `rl.max_tokens`."""

    def __init__(self, backbone: FakeBackbone, rl: Hyperparameters, rates: Rates) -> None:
        self._backbone = backbone
        self._rates = rates
        self._reply = rl.max_tokens
        self._spec = SamplingSpec(1, rl.max_tokens, **rl.sampling)
        self._on_vllm = rl.sampler == "vllm"
        self._objective = PolicyGradient(advantages.leave_one_out, rl.importance_weight_cap)
        self._profiled: dict[tuple[Any, ...], Work] = {}

    def train(self, length: int, rows: int) -> Work:
        """Forward and backward passes of `rows` replies."""
        of_batch = self.rows(length, rows)
        checkpointing = self._backbone.checkpoints(of_batch * padded_width(length, self._reply))
        work = self._once(self._train, length, of_batch, checkpointing)
        return work.scaled(rows / of_batch)

    def reference_pass(self, length: int, rows: int, reply: int | None = None) -> Work:
        """Log-probabilities and features of `rows` replies by the base, each of `reply` tokens."""
        of_batch = self.rows(length, rows)
        work = self._once(self._reference_pass, length, of_batch, reply or self._reply)
        return work.scaled(rows / of_batch)

    def scored_samples(self, length: int, rows: int) -> Work:
        """A reference pass that values the prefixes of the replies, too."""
        of_batch, stride = self.rows(length, rows), max(PREFIX_STRIDE, -(-self._reply // MAX_PREFIXES))
        prefixes = (self._reply - 1) // stride
        value = self._once(self._features_again, length, of_batch).scaled(prefixes * rows / of_batch)
        return self.reference_pass(length, rows).then(value)

    def trust_region(self, length: int, replies: int) -> Work:
        """The log-probabilities of some of a step's replies before and after it, in full precision."""
        rows = min(replies, max(MIN_REPLIES, min(MAX_REPLIES, round(MEASURED_TOKENS / self._reply))))
        of_batch = self.rows(length, rows)
        return self._once(self._full_precision, length, of_batch).scaled(2 * rows / of_batch)

    def evaluate(self, length: int, prompts: int, samples_per_prompt: int) -> Work:
        """Replies sampled to all prompts and scored by the base."""
        scored = self.reference_pass(length, prompts * samples_per_prompt)
        return self.sample(length, prompts, samples_per_prompt).then(scored)

    def sample(
        self, length: int, prompts: int, samples_per_prompt: int, reply_tokens: int | None = None
    ) -> Work:
        """Replies sampled to all prompts, which is no work of this process where vLLM samples."""
        if self._on_vllm:
            return Work()
        reply = reply_tokens or self._reply
        most = min(MAX_ROWS, self._backbone.token_budget.sampling // padded_width(length, reply))
        at_once = min(prompts, max(1, most // samples_per_prompt))
        work = self._once(self._sample, length, at_once, samples_per_prompt, reply)
        return work.scaled(prompts / at_once)

    def rows(self, length: int, rows: int) -> int:
        """The rows of a batch of training or scoring, if there are so many."""
        most = self._backbone.token_budget.training // padded_width(length, self._reply)
        return min(MICRO_BATCH, rows, max(1, most))

    def _once(self, profile: Callable[..., Work], *sizes: int) -> Work:
        key = profile.__name__, *sizes
        if key not in self._profiled:
            self._profiled[key] = profile(*sizes)
        return self._profiled[key]

    def _train(self, length: int, rows: int, _checkpointing: bool) -> Work:
        backbone, reply = self._backbone, self._reply
        with backbone.mode:
            for weight in backbone.trainable():
                weight.grad = torch.zeros_like(weight)
            with OpProfiler(backbone, self._rates) as profiler:
                rollouts = [Rollout(0, [0] * reply, [0.0] * reply, False)] * rows
                zeros = [[0.0] * reply] * rows
                scored = Scored(zeros, {}, [[0] * reply] * rows, zeros, zeros)
                batch = Batch([[0] * length] * rows, rollouts, scored, torch.zeros(1, rows), 0.0, 0.0)
                self._objective.backward(backbone, batch)
        return _work(profiler)

    def _reference_pass(self, length: int, rows: int, reply: int) -> Work:
        backbone, layers = self._backbone, features.select_layers(self._backbone)
        with (
            backbone.mode,
            OpProfiler(backbone, self._rates) as profiler,
            torch.no_grad(),
            backbone.reference(),
        ):
            batch = backbone.pad([[0] * length] * rows, [[0] * reply] * rows)
            features.extract_features(batch, backbone.base_scores(batch, layers).hidden)
        return _work(profiler)

    def _features_again(self, length: int, rows: int) -> Work:
        backbone, layers = self._backbone, features.select_layers(self._backbone)
        width = int(backbone.model.config.get_text_config().hidden_size)
        with backbone.mode, torch.no_grad():
            batch = backbone.pad([[0] * length] * rows, [[0] * self._reply] * rows)
            hidden = [batch.reply_mask_BR.new_zeros(*batch.reply_mask_BR.shape, width) for _ in layers]
            with OpProfiler(backbone, self._rates) as profiler:
                features.extract_features(batch, hidden)
        return Work(profiler.seconds, profiler.flops)

    def _full_precision(self, length: int, rows: int) -> Work:
        backbone = self._backbone
        with (
            backbone.mode,
            OpProfiler(backbone, self._rates) as profiler,
            torch.no_grad(),
            backbone.full_precision(),
        ):
            backbone.logprobs_BR(backbone.pad([[0] * length] * rows, [[0] * self._reply] * rows))
        return _work(profiler)

    def _sample(self, length: int, prompts: int, samples_per_prompt: int, reply: int) -> Work:
        """Decoding steps get longer in proportion to a row, so their mean is that of the first and the
        last."""
        backbone, rows = self._backbone, prompts * samples_per_prompt
        with (
            backbone.mode,
            OpProfiler(backbone, self._rates) as profiler,
            torch.no_grad(),
            backbone.decoding(),
        ):
            cache = self._cache()
            self._forward(cache, prompts, length, length)
            cache.batch_repeat_interleave(samples_per_prompt)
            work = _work(profiler)
            for width in (length + 1, length + reply):
                if width > length + 1:
                    with profiler.paused():
                        cache = self._cache()
                        self._forward(cache, rows, width - 1, width - 1)
                before = _work(profiler)
                self._choose_token(self._forward(cache, rows, 1, width))
                step = Work(profiler.seconds - before.seconds, profiler.flops - before.flops, profiler.peak)
                work = work.then(step.scaled(reply / 2))
        return work

    def _cache(self) -> Any:
        return DynamicCache(config=self._backbone.model.config)

    def _forward(self, cache: Any, rows: int, new: int, width: int) -> torch.Tensor:
        """(B, V) logits after `new` more tokens, with which each row has `width` tokens."""
        ones_BT = torch.ones(rows, width, dtype=torch.long, device=self._backbone.device)
        return self._backbone.next_logits_BV(ones_BT[:, -new:], ones_BT, ones_BT[:, -new:], cache)

    def _choose_token(self, logits_BV: torch.Tensor) -> None:
        logp_BV = logits_BV.log_softmax(1)
        if self._spec.penalised:  # what is drawn from is another distribution
            logp_BV = logp_BV.log_softmax(1)
        if self._spec.truncated:
            likeliest_BK = logp_BV.topk(min(NUCLEUS_TOKENS, logp_BV.shape[1]), dim=1)
            torch.full_like(logp_BV, -torch.inf).scatter_(1, likeliest_BK.indices, likeliest_BK.values)
        logp_BV.gather(1, sample_tokens(logp_BV, 0, len(logp_BV), torch.Generator()).unsqueeze(1))


def _work(profiler: OpProfiler) -> Work:
    return Work(profiler.seconds, profiler.flops, profiler.peak)
