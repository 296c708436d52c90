"""Replies as people are served them: at a temperature and top-p, up to the length that serving allows.

The base's replies are kept on disk by its digest, the prompt and the settings: all seeds and tastes judge the
same ones.
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, sample
from trainer.model.tokenizer import ChatTokenizer

LONGEST = 256
"""Tokens that people's requests name: replies of the default length take two cores too long."""

_ROWS = 32
"""Replies of the base that are sampled, and then written, together."""

CACHE = Path.home() / ".cache" / "hearken-bench"


@dataclass(frozen=True, slots=True)
class ServedAt:
    """How replies are sampled."""

    temperature: float
    top_p: float
    max_tokens: int

    @classmethod
    def by_default(cls, base: Path) -> "ServedAt":
        """Returns a base's own generation defaults; a reply has at most LONGEST tokens, and at most half of
        the context."""
        tokenizer = ChatTokenizer(base)
        longest = min(LONGEST, tokenizer.context_length // 2)
        return cls(tokenizer.temperature, tokenizer.top_p, longest)

    def sample(
        self, backbone: Backbone, prompts: Sequence[list[int]], copies: int, generator: torch.Generator
    ) -> list[Rollout]:
        """Samples replies to each prompt of the adapter as it is."""
        spec = SamplingSpec(copies, self.max_tokens, self.temperature, self.top_p)
        return sample(backbone, prompts, spec, generator)


class BaseReplies:
    """The base's replies to prompts, sampled once and then read from CACHE."""

    def __init__(self, backbone: Backbone, served_at: ServedAt) -> None:
        self._backbone = backbone
        self._served_at = served_at
        self._folder = CACHE / backbone.digest[:16]

    def of(self, prompts: Sequence[str], copies: int) -> list[list[list[int]]]:
        """Returns the token ids of `copies` replies to each prompt."""
        missing = [prompt for prompt in prompts if not self._path(prompt, copies).is_file()]
        per_batch = max(1, _ROWS // copies)
        for start in range(0, len(missing), per_batch):
            self._sample(missing[start : start + per_batch], copies)
            print(
                f"  base: {min(start + per_batch, len(missing))} of {len(missing)} prompts", file=sys.stderr
            )
        return [json.loads(self._path(prompt, copies).read_text())["replies"] for prompt in prompts]

    def speed(self, prompts: Sequence[str], copies: int) -> float:
        """Returns the tokens per second at which these replies were sampled."""
        found = [json.loads(self._path(prompt, copies).read_text()) for prompt in prompts]
        return sum(len(reply) for each in found for reply in each["replies"]) / sum(
            each["seconds"] for each in found
        )

    def _sample(self, prompts: list[str], copies: int) -> None:
        backbone = self._backbone
        generator = torch.Generator().manual_seed(int(_digest(*prompts)[:15], 16))
        ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in prompts]
        began = time.monotonic()
        with backbone.reference():
            rollouts = self._served_at.sample(backbone, ids, copies, generator)
        seconds = (time.monotonic() - began) / len(prompts)
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(prompts):
            replies = [rollout.token_ids for rollout in rollouts if rollout.prompt == number]
            path = self._path(prompt, copies)
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps({"prompt": prompt, "replies": replies, "seconds": seconds}))
            draft.replace(path)

    def _path(self, prompt: str, copies: int) -> Path:
        return self._folder / f"{_digest(prompt, copies, *astuple(self._served_at))}.json"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
