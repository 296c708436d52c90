"""Hyperparameters are the settings of RL with every value filled in.

What no setting names is derived from the model (its width), the traffic (lengths of the replies served,
sampling parameters, new votes) and the machine (its speed). A round keeps them in its inputs, so it can be
repeated.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict

from schemas.generation_defaults import GenerationDefaults
from schemas.settings import RLSettings, TrainerSettings
from trainer.data.traffic import Traffic
from trainer.model.backbone import Backbone
from trainer.model.speed import Speed

RESTART_FACTOR = 3
"""Factor on the steps of a round that starts from the base instead of the live policy."""

FULL_STEPS = 8
"""Steps of a round with `round_votes` new votes or more."""

PROMPTS_PER_STEP = (32, 16, 8, 4)
"""Prompts of a step: the most for which a round takes no longer than it may, and the fewest in any case."""

LORA_TIME = 0.25
"""Share of a round's time that heads of the reward model may take, where the settings ask for them."""

BASE_PROMPTS_PER_PROMPT = 4
"""Prompts that the base answers, for each prompt of a step."""

BASE_SAMPLES = 4
"""Replies of the base to each of its prompts."""

LEARNING_RATE, WIDTH = 2e-3, 256
"""First learning rate of a model with hidden states of that width; it falls with the width. The trust region
(`rl.trust_region`) corrects it from the first step on."""

LENGTH_MARGIN = 1.25
"""Factor on the longest reply served, where replies were not cut off there."""

MIN_TOKENS, DEFAULT_TOKENS = 32, 256
"""Bounds of the longest sampled reply: the shortest; and the one where nobody was served yet, or where there
is no time for longer ones, tokens."""

MIN_TEMPERATURE = 0.3
"""Lowest temperature of samples: below, the replies to a prompt hardly differ, and nothing can be learned."""

MIN_TOP_P = 0.5
"""Lowest top-p of samples, for the same reason: at it, one token alone is left only where it is likelier than
all others together."""

MIN_TOP_K = 2
"""Lowest top-k of samples, where there is one, for the same reason."""

MAX_MIN_P = 0.5
"""Highest min-p of samples, for the same reason: at it, one token alone is left only where it is more than
twice as likely as any other."""

DEFAULT_PROMPT, DEFAULT_REPLY = 64.0, 64.0
"""Mean lengths assumed before the first turn, tokens."""


def first_learning_rate(width: int) -> float:
    """Returns the learning rate of a model with hidden states of that width, of which nothing is known."""
    return LEARNING_RATE * min(1.0, WIDTH / width)


def lora_seconds(settings: TrainerSettings) -> float:
    """Returns the time that heads of the reward model may take."""
    return LORA_TIME * settings.max_round_seconds if settings.reward.kind == "auto" else 0.0


class Hyperparameters(RLSettings):
    """The hyperparameters of one round. `base_prompts` is the number of prompts that the base answers.
    `temperature` and what follows are the sampling parameters of all samples, as `GenerationDefaults` has
    them; a round of an older release had no other than the first two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float
    steps_per_round: int
    prompts_per_step: int
    max_tokens: int
    base_prompts: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters by name."""
        return {name: getattr(self, name) for name in GenerationDefaults.model_fields}


@dataclass(frozen=True, slots=True)
class Model:
    """What hyperparameters need to know of a base: the width of its hidden states, its context in tokens, and
    its generation defaults."""

    width: int
    context_length: int
    generation_defaults: GenerationDefaults = field(default_factory=GenerationDefaults)

    @classmethod
    def of(cls, backbone: Backbone) -> "Model":
        """Returns the facts of a base."""
        width = int(backbone.model.config.get_text_config().hidden_size)
        return cls(width, backbone.context_length, backbone.generation_defaults)


@dataclass(frozen=True, slots=True)
class Derivation:
    """Derives the hyperparameters of a round. `learning_rate` is the one that the last round ended with."""

    settings: TrainerSettings
    model: Model
    traffic: Traffic
    speed: Speed
    learning_rate: float | None = None

    def hyperparameters(self) -> Hyperparameters:
        """Returns the settings of RL, with what they leave out derived."""
        rl = self.settings.rl
        prompts = rl.prompts_per_step or self._prompts_per_step()
        derived = {
            "learning_rate": rl.learning_rate or self.learning_rate or first_learning_rate(self.model.width),
            "steps_per_round": rl.steps_per_round or self._steps(),
            "prompts_per_step": prompts,
            "max_tokens": rl.max_tokens or self._max_tokens(),
            "base_prompts": BASE_PROMPTS_PER_PROMPT * prompts,
            **self._sampling(),
        }
        return Hyperparameters(**rl.model_dump() | derived)

    def of_a_restart(self) -> Hyperparameters:
        """Returns the hyperparameters of a round that starts from the base and has to catch up."""
        steps = RESTART_FACTOR * (self.settings.rl.steps_per_round or FULL_STEPS)
        return self.hyperparameters().model_copy(update={"steps_per_round": steps})

    def as_json(self) -> dict[str, Any]:
        """Returns each derived value and, in words, where it comes from."""
        values, reasons = self.hyperparameters(), self._reasons()
        return {name: {"value": getattr(values, name), "reason": reasons[name]} for name in reasons}

    def _reasons(self) -> dict[str, str]:
        rl, traffic = self.settings.rl, self.traffic
        found = {
            name: "as people are served" if name in traffic.sampling else "the model's own"
            for name in GenerationDefaults.model_fields
        }
        if rl.max_tokens is None:
            found["max_tokens"] = (
                f"of a hundred replies served, one is longer than {traffic.longest_reply} tokens"
                if traffic.longest_reply
                else "nobody was served yet"
            )
        if rl.learning_rate is None:
            found["learning_rate"] = (
                "found by the trust region in the last round"
                if self.learning_rate
                else f"for hidden states of width {self.model.width}; the trust region corrects it"
            )
        if rl.steps_per_round is None:
            found["steps_per_round"] = (
                f"{traffic.new_votes} new votes; {self.settings.round_votes} give {FULL_STEPS} steps"
            )
        if rl.prompts_per_step is None:
            found["prompts_per_step"] = (
                f"a round then takes about {self.seconds(self._prompts_per_step()):,.0f} s of"
                f" {self.settings.max_round_seconds:,.0f} s"
            )
        return found

    def seconds(self, prompts: int) -> float:
        """Returns the estimated time of a whole round with so many prompts a step."""
        traffic, gate, count = self.traffic, self.settings.gate, self.settings.rl.samples_per_prompt
        reply = traffic.reply_length or DEFAULT_REPLY
        row = reply + (traffic.prompt_length or DEFAULT_PROMPT)
        sampled = reply / self.speed.sampling + row / self.speed.scoring
        step = prompts * count * (sampled + 2 * row / self.speed.training)  # with as many replayed samples
        base = BASE_SAMPLES * BASE_PROMPTS_PER_PROMPT * prompts
        evaluated = (base + 4 * gate.eval_prompts) * sampled + base * row / self.speed.scoring
        return FULL_STEPS * step + evaluated

    def _prompts_per_step(self) -> int:
        fitting = (each for each in PROMPTS_PER_STEP if self._has_time_for(each))
        return next(fitting, PROMPTS_PER_STEP[-1])

    def _has_time_for(self, prompts: int) -> bool:
        return self.seconds(prompts) <= self.settings.max_round_seconds - lora_seconds(self.settings)

    def _steps(self) -> int:
        new = self.traffic.new_votes or self.settings.round_votes  # a round that was asked for by hand
        return min(FULL_STEPS, math.ceil(FULL_STEPS * new / self.settings.round_votes))

    def _max_tokens(self) -> int:
        longest = self.traffic.longest_reply
        if longest is None:
            wanted = DEFAULT_TOKENS
        else:
            wanted = longest if self.traffic.cut_off else math.ceil(LENGTH_MARGIN * longest)
            if not self._has_time_for(PROMPTS_PER_STEP[-1]):
                wanted = min(wanted, DEFAULT_TOKENS)
        return min(max(wanted, MIN_TOKENS), self.model.context_length // 2)

    def _sampling(self) -> dict[str, float]:
        """Returns the sampling parameters as people are served, what no turn says as by the model's own
        defaults, within the bounds at which replies to a prompt differ."""
        served = {**self.model.generation_defaults.model_dump(), **self.traffic.sampling}
        return served | {
            "temperature": max(served["temperature"], MIN_TEMPERATURE),
            "top_p": max(served["top_p"], MIN_TOP_P),
            "top_k": max(served["top_k"], MIN_TOP_K) if served["top_k"] > 0 else 0,
            "min_p": min(served["min_p"], MAX_MIN_P),
        }
