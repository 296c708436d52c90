"""Settings of reinforcement learning."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from schemas.settings.renamed_fields import RenamedFields


class RLSettings(RenamedFields):
    """Reinforcement learning of the policy."""

    section = "trainer.rl"
    renamed: ClassVar = {
        "recompute": "gradient_checkpointing",
        "steps": "steps_per_round",
        "prompts": "prompts_per_step",
        "replies": "samples_per_prompt",
        "kl_penalty": "kl_coef",
        "drift_penalty": "style_drift_coef",
        "imitation": "edit_coef",
        "edit_sft_coef": "edit_coef",
        "exemplars": "base_sft_coef",
        "unended_penalty": "no_eos_penalty",
        "truncation": "importance_weight_cap",
    }
    removed: ClassVar = {
        "clip": "at one optimizer step on each batch, the ratio that it bounds is 1",
        "kl_budget": "it was in nats per token; trainer.rl.kl_per_reply is the budget, in nats per reply",
    }

    @model_validator(mode="before")
    @classmethod
    def _imitate_as_older_releases(cls, values: Any) -> Any:
        """What was weighted under an old name was imitation."""
        if isinstance(values, Mapping) and {"imitation", "edit_sft_coef"} & values.keys():
            return {"edits": "imitation", **values}
        return values

    algorithm: Literal["rloo", "grpo", "online_dpo", "dpo", "kto"] = Field(
        "rloo",
        description="rloo, grpo, online_dpo learn from samples and the reward model; dpo, kto from the votes",
    )
    sampler: Literal["in_process", "vllm"] | None = Field(
        None,
        description="where replies are sampled to learn from and to evaluate: in the trainer's process, or on"
        " vllm.urls; none: there where engine.kind is `vllm`",
    )
    rank: int = Field(16, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA α")
    gradient_checkpointing: bool | None = Field(
        None,
        description="recompute activations in the backward pass: less memory, a third more time; none: of"
        " what does not fit into memory otherwise",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of AdamW at the start of a round; none: the one that the last round"
        " found, at first by the model's width",
    )
    step_kl: float = Field(
        1.0,
        gt=0,
        description="trust region: largest KL of a step of 128 samples, replayed ones included, to the"
        " policy before it (of fewer: as much less), nats per reply",
    )
    warmup_steps: int = Field(3, ge=0, description="linear warm-up of the learning rate, steps")
    steps_per_round: int | None = Field(
        None, ge=1, description="optimizer steps of a round; none: in proportion to the new votes, steps"
    )
    prompts_per_step: int | None = Field(
        None, ge=1, description="prompts of a step; none: as many as max_round_seconds allows, prompts"
    )
    samples_per_prompt: int = Field(4, ge=2, description="K: replies sampled for each prompt")
    max_tokens: int | None = Field(
        None, ge=1, description="longest sampled reply; none: by the lengths of the replies served, tokens"
    )
    kl_coef: float = Field(
        0.15,
        ge=0,
        description="β of the KL penalty KL(π‖π_base), reward per nat; it grows as the budget is used up",
    )
    style_drift_coef: float = Field(
        1.0,
        ge=0,
        description="penalty on style drift: changes of the replies that no vote asks for, reward per nat",
    )
    kl_per_reply: float = Field(
        8.0, gt=0, description="the guard stops a round above this KL to the base, nats per reply"
    )
    entropy_floor: float = Field(
        0.25, ge=0, lt=1, description="the guard stops a round below this entropy, share of the base's"
    )
    edits: Literal["none", "imitation", "self_distillation", "preference"] = Field(
        "none",
        description="how edits teach beside the reward model: SFT on the edited text; a teacher that sees the"
        " edit, or the comment; the edit against the policy's own samples",
    )
    edit_coef: float | None = Field(
        None, ge=0, description="weight of what edits teach so; none: by the way, 0.1 to 1"
    )
    base_sft_coef: float = Field(
        0.3,
        ge=0,
        description="weight of an auxiliary SFT loss on base samples, which are weighted by their reward",
    )
    no_eos_penalty: float = Field(
        2.0,
        ge=0,
        description="subtracted from the reward of a sample without an end token, as far as the policy has"
        " more of them than the base",
    )
    importance_weight_cap: float = Field(
        2.0, ge=1, description="cap on the importance weight π/μ against the sampler"
    )
