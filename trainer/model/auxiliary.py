"""An auxiliary model is a second frozen model, such as a public embedding or preference model, that reads the
replies that the base wrote.

The reward model has its hidden states as features beside the base's: what a model was trained to tell apart,
a linear probe finds in few votes. It reads text, so it may have another tokenizer.
"""

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from schemas.errors import StartError
from schemas.policies import base_digest

MAX_TOKENS, REPLY_SHARE = 1_024, 0.75
"""Most tokens of a prompt and its reply that are read, if the model takes so many, and the reply's part of
them: a prompt loses its beginning, a reply its end."""

SPECIAL_TOKENS = 8
"""Room that is left for the tokens that the model's tokenizer adds."""


class AuxiliaryModel:
    """The model in a directory. Raises StartError where it is missing, not complete, has a decoder of its own
    or no fast tokenizer. Code that comes with a model is never run."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._directory = directory
        self._device = device
        try:
            config = AutoConfig.from_pretrained(directory)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            model, loading = AutoModel.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise StartError(f"trainer.reward.auxiliary_model {directory} cannot be read: {reason}") from None
        if missing := [name for name in loading["missing_keys"] if "pooler" not in name]:  # which is not used
            raise StartError(
                f"trainer.reward.auxiliary_model {directory} is not complete: it lacks {min(missing)}."
            )
        if config.is_encoder_decoder or not self._tokenizer.is_fast:
            raise StartError(
                f"trainer.reward.auxiliary_model {directory} is of no use here: take an encoder, or a decoder"
                " alone, with a fast tokenizer."
            )
        self._model: Any = model.eval().requires_grad_(False).to(device)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        most = getattr(config.get_text_config(), "max_position_embeddings", MAX_TOKENS)
        self._tokens = min(MAX_TOKENS, most, self._tokenizer.model_max_length) - SPECIAL_TOKENS

    @functools.cached_property
    def digest(self) -> str:
        """The digest of its files."""
        return base_digest(self._directory)

    @torch.no_grad()
    def features(self, prompts: Sequence[str], replies: Sequence[str]) -> Tensor:
        """Returns the (N, 2·D) features of replies, given each with its prompt: the mean of the last hidden
        states over the reply's tokens, and the last of them."""
        of_reply = round(REPLY_SHARE * self._tokens)
        pairs = [
            (self._cut(prompt, self._tokens - of_reply, ending=True), self._cut(reply, of_reply))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        encoded = self._tokenizer(
            [prompt for prompt, _ in pairs], [reply for _, reply in pairs],
            padding=True, padding_side="right", return_tensors="pt",
        )  # fmt: skip
        mask_NT = torch.tensor(
            [[part == 1 for part in encoded.sequence_ids(row)] for row in range(len(pairs))]
        ).float()
        known = inspect.signature(self._model.forward).parameters
        inputs = {name: each.to(self._device) for name, each in encoded.items() if name in known}
        states_NTD = self._model(**inputs).last_hidden_state.float().cpu()
        mean_ND = (states_NTD * mask_NT.unsqueeze(2)).sum(1) / mask_NT.sum(1, keepdim=True).clamp_min(1)
        last_N = (mask_NT * torch.arange(1, mask_NT.shape[1] + 1)).argmax(1)
        return torch.cat([mean_ND, states_NTD[torch.arange(len(pairs)), last_N]], 1)

    def _cut(self, text: str, most: int, *, ending: bool = False) -> str:
        """Returns the beginning of a text, or its ending, of at most so many tokens."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = encoded["offset_mapping"]
        if len(places) <= most:
            return text
        return text[places[-most][0] :] if ending else text[: places[most - 1][1]]
