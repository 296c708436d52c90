"""Taste scores are the values of replies by the taste models that the trainer publishes
(`schemas.taste_model`).

They need the hidden states of the frozen base over each reply, so they are computed here, where the model is.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from schemas.errors import InvalidRequest
from schemas.policies import file_digest
from schemas.taste_model import CLIP, GROUPS, METADATA, TOKEN_GROUPS, TasteHeader
from serving.embedded.model import Model

MAX_REPLIES = 16
"""Most replies to one prompt that are scored at once."""

_MAX_MODELS = 8  # in memory, those used last


class TasteRequest(BaseModel):
    """Replies to one prompt, as token ids, and the file of the taste model with its digest."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1)
    digest: str = Field(min_length=64, max_length=64)
    prompt: list[int] = Field(min_length=1)
    replies: list[list[int]] = Field(min_length=1, max_length=MAX_REPLIES)


class TasteModel:
    """A published taste model. Raises InvalidRequest for a file that is not what its digest says, or does not
    fit this base."""

    def __init__(self, path: Path, digest: str, model: Model) -> None:
        try:
            if file_digest(path) != digest:
                raise InvalidRequest(
                    f"{path.name} is not the taste model that was published.", param="digest"
                )
            with safe_open(path, framework="pt") as file:
                self.header = TasteHeader.model_validate_json(file.metadata()[METADATA])
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValidationError) as error:
            raise InvalidRequest(f"{path.name} is no taste model that can be read.", param="path") from error
        self._check(path.name, model)

    def values(self, states: list[Tensor], tokens: list[int], first: int) -> Tensor:
        """Returns the (M, C) values of a reply, of the tokens from the one numbered `first` on; `states` are
        the hidden states of the reply's tokens by layer, (R, D) each."""
        judged = [layer_RD[first:].float() for layer_RD in states]
        most = self.header.max_magnitude
        lengths = torch.tensor(self.header.lengths)
        features = {
            "mean": torch.cat([layer_RD.mean(0) for layer_RD in judged]),
            "peak": torch.cat([layer_RD.amax(0) for layer_RD in judged]),
            "last": torch.cat([layer_RD[-1] for layer_RD in judged]),
            "length": ((len(tokens) - first) / lengths).log().div(self.header.softness).sigmoid(),
        }
        found_MC: Tensor = self._tensors["bias"]
        for name, feature_D in features.items():
            rounded_D = feature_D.clamp(-most, most).half().float().cpu()
            standard_D = (rounded_D - self._tensors[f"{name}.mean"]) / self._tensors[f"{name}.std"]
            found_MC = found_MC + self._tensors[f"{name}.weights"] @ standard_D.clamp(-CLIP, CLIP)
        read = torch.tensor(tokens[first:][: self.header.max_tokens])
        for name in self._token_groups:
            counts_D = (self._tensors[f"{name}.vocabulary"].unsqueeze(1) == read).sum(1).float()
            rates_D = counts_D / (len(read) + self.header.rate_smoothing)
            features_D = rates_D if name == "rates" else counts_D.clamp_max(1)
            found_MC = found_MC + self._tensors[f"{name}.weights"] @ features_D
        return found_MC

    @property
    def _token_groups(self) -> list[str]:
        """The groups of tokens that the file has: the rates are new."""
        return [name for name in TOKEN_GROUPS if name == "tokens" or f"{name}.vocabulary" in self._tensors]

    def first_judged(self, tokens: list[int]) -> int:
        """Returns the number of the first token behind a reply's thought; of its last, where nothing follows
        the thought."""
        if self.header.think_ids is None:
            return 0
        opening, closing = self.header.think_ids
        if closing in tokens:
            return min(tokens.index(closing) + 1, len(tokens) - 1)
        return len(tokens) - 1 if tokens[0] == opening else 0

    def _check(self, name: str, model: Model) -> None:
        header, found = self.header, self._tensors
        width = len(header.layers) * model.width
        dense = {"mean": width, "peak": width, "last": width, "length": len(header.lengths)}
        shapes: dict[str, tuple[int, ...]] = {"bias": (header.members, 1 + header.directions)}
        for group in GROUPS:
            shapes |= {f"{group}.{part}": (dense[group],) for part in ("mean", "std")}
            shapes[f"{group}.weights"] = (header.members, 1 + header.directions, dense[group])
        for group in self._token_groups:
            size = len(found.get(f"{group}.vocabulary", torch.empty(0)))
            shapes[f"{group}.vocabulary"] = (size,)
            shapes[f"{group}.weights"] = (header.members, 1 + header.directions, size)
        fits = shapes == {each: tuple(tensor.shape) for each, tensor in found.items()}
        in_range = all(0 <= layer <= model.layers for layer in header.layers)
        if not fits or not in_range or not all(tensor.isfinite().all() for tensor in found.values()):
            raise InvalidRequest(f"{name} does not fit this base.", param="path")


class TasteScores:
    """Scores replies; the taste models that were used last stay in memory. Only the thread that uses the
    model may call it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loaded: OrderedDict[str, TasteModel] = OrderedDict()

    def score(self, request: TasteRequest) -> dict[str, object]:
        """Returns the (M, C) values of each reply. Raises InvalidRequest."""
        self._check(request)
        tastes = self._find(Path(request.path), request.digest)
        rows = [[*request.prompt, *reply] for reply in request.replies]
        layers_BTD = self._model.hidden_states(rows, tastes.header.layers)
        values = []
        for number, reply in enumerate(request.replies):
            states = [layer_BTD[number, len(request.prompt) :][: len(reply)] for layer_BTD in layers_BTD]
            values.append(tastes.values(states, reply, tastes.first_judged(reply)).tolist())
        return {"object": "list", "directions": tastes.header.directions, "values": values,
                "ranking_scale": tastes.header.ranking_scale, "caution": tastes.header.caution}  # fmt: skip

    def _find(self, path: Path, digest: str) -> TasteModel:
        if digest in self._loaded:
            self._loaded.move_to_end(digest)
        else:
            self._loaded[digest] = TasteModel(path, digest, self._model)
            if len(self._loaded) > _MAX_MODELS:
                self._loaded.popitem(last=False)
        return self._loaded[digest]

    def _check(self, request: TasteRequest) -> None:
        model = self._model
        if not all(request.replies):
            raise InvalidRequest("A reply has no tokens.", param="replies")
        if len(request.prompt) + max(map(len, request.replies)) > model.context:
            raise InvalidRequest(
                f"This model's maximum context length is {model.context} tokens.",
                code="context_length_exceeded",
                param="replies",
            )
        if not all(
            0 <= token < model.vocabulary for row in (request.prompt, *request.replies) for token in row
        ):
            raise InvalidRequest("There are token ids outside the vocabulary.", param="replies")
