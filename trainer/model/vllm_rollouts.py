"""VllmEngine samples rollouts on vLLM servers, which are faster than this process for all but small models.

An adapter is written to disk and loaded under a new name each time, since names are never reused. Prompts are
divided among the servers; requests and replies carry token ids, so nothing is tokenised twice. Serving shares
the servers and leaves these adapters alone. An adapter that a killed trainer left behind is evicted when its
slot is needed.
"""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import torch

from schemas.addresses import resolve
from schemas.errors import EngineError
from schemas.policies import TRAINING
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, all_gather_rollouts
from trainer.model.token_budget import split

CONCURRENT_PROMPTS = 8
"""Prompts in flight on each server."""

SCORED_ROWS = 16
"""Replies scored in one batch, at most."""

REQUEST_TIMEOUT = 300.0
"""Seconds for the replies to one prompt, which may queue behind chat requests."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One prompt, the server that is asked, and the name of the model there."""

    url: str
    model: str
    number: int
    prompt: Sequence[int]
    seed: int


class VllmEngine:
    """A SamplingEngine (`rollouts`) over the servers at `urls`, which load adapters from below `folder` and
    ask for `key` if that is given. Raises EngineError when a server fails."""

    def __init__(self, urls: Sequence[str], folder: Path, key: str | None = None) -> None:
        self._urls = list(urls)
        self._folder = folder
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def sample(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        spec: SamplingSpec,
        generator: torch.Generator,
    ) -> list[Rollout]:
        """Samples replies of the current adapter, or of the base inside `reference`; the main process asks.
        Servers report log-probabilities at temperature 1; at another, all processes compute them here."""
        group = backbone.group
        rollouts = self._ask(backbone, prompts, spec, generator) if group.is_main else []
        rollouts = all_gather_rollouts(group, rollouts)
        if spec.temperature == 1 or not spec.logprobs:
            return rollouts
        return _rescore(backbone, prompts, rollouts, spec.temperature)

    def _ask(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        spec: SamplingSpec,
        generator: torch.Generator,
    ) -> list[Rollout]:
        urls = asyncio.run(resolve(self._urls))
        if not urls:
            names = ", ".join(self._urls)
            raise EngineError(f"none of vllm.urls can be resolved: {names}", url=names)
        seeds = torch.randint(2**31, (len(prompts),), generator=generator).tolist()
        with (
            httpx.Client(timeout=REQUEST_TIMEOUT, headers=self._headers) as client,
            self._model(backbone, client, urls) as model,
            ThreadPoolExecutor(CONCURRENT_PROMPTS * len(urls)) as threads,
        ):
            requests = [
                _Request(url, model, number, prompt, seed)
                for url, (number, prompt), seed in zip(
                    itertools.cycle(urls), enumerate(prompts), seeds, strict=False
                )
            ]
            bodies = _sampling_parameters(spec, backbone.eos_ids)
            replies = list(threads.map(lambda each: _complete(client, each, bodies), requests))
        return [rollout for rollouts in replies for rollout in rollouts]

    @contextmanager
    def _model(self, backbone: Backbone, client: httpx.Client, urls: Sequence[str]) -> Iterator[str]:
        """Gives the name under which the servers have the current adapter, inside. The base is the zero
        adapter: in a batch with adapters, vLLM may answer who asks for none by one of them."""
        name = f"{TRAINING}{uuid.uuid4().hex}"
        directory = self._folder.absolute() / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            save_adapter(backbone, directory)
            for url in urls:
                adapter = {"lora_name": name, "lora_path": str(directory)}
                _call(client, "POST", f"{url}/v1/load_lora_adapter", adapter)
                stack.callback(_call, client, "POST", f"{url}/v1/unload_lora_adapter", {"lora_name": name})
            yield name


def _sampling_parameters(spec: SamplingSpec, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Returns the part of a completion request that all prompts share. It names every parameter, lest a
    server apply the base's own defaults."""
    return {
        "n": spec.samples_per_prompt,
        "max_tokens": spec.max_tokens,
        "temperature": 0.0 if spec.greedy else spec.temperature,
        "top_p": 1.0 if spec.greedy else spec.top_p,
        "top_k": 0 if spec.greedy else spec.top_k,
        "min_p": 0.0 if spec.greedy else spec.min_p,
        "repetition_penalty": spec.repetition_penalty,
        "presence_penalty": spec.presence_penalty,
        "frequency_penalty": spec.frequency_penalty,
        "stop_token_ids": list(eos_ids),
        "logprobs": 0,
        "return_token_ids": True,
    }


def _complete(client: httpx.Client, request: _Request, parameters: dict[str, Any]) -> list[Rollout]:
    """Returns a server's replies to one prompt."""
    body = {"model": request.model, "prompt": list(request.prompt), "seed": request.seed, **parameters}
    completion = _call(client, "POST", f"{request.url}/v1/completions", body).json()
    return [
        Rollout(
            request.number, choice["token_ids"], choice["logprobs"]["token_logprobs"],
            choice["finish_reason"] == "stop",
        )
        for choice in sorted(completion["choices"], key=lambda choice: int(choice["index"]))
    ]  # fmt: skip


@torch.no_grad()
def _rescore(
    backbone: Backbone, prompts: Sequence[Sequence[int]], rollouts: list[Rollout], temperature: float
) -> list[Rollout]:
    """Returns the rollouts with their log-probabilities at `temperature`."""
    lengths = [(len(prompts[each.prompt]), len(each.token_ids)) for each in rollouts]
    scored: list[Rollout] = []
    for rows in split(lengths, backbone.token_budget.training, SCORED_ROWS, backbone.group.size):
        part = rollouts[rows]
        padded = backbone.pad([prompts[each.prompt] for each in part], [each.token_ids for each in part])
        with backbone.without_autocast():
            logprobs_BR = backbone.logprobs_BR(padded, temperature)
        for each, logprobs_R, mask_R in zip(part, logprobs_BR, padded.reply_mask_BR.bool(), strict=True):
            scored.append(replace(each, logprobs=logprobs_R[mask_R].tolist()))
    return scored


def _call(client: httpx.Client, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
    try:
        return client.request(method, url, json=body).raise_for_status()
    except httpx.HTTPStatusError as error:
        response = error.response
        raise EngineError(
            f"{url} answered {response.status_code}: {response.text[:200]}",
            url=url,
            status=response.status_code,
        ) from None
    except httpx.HTTPError as error:
        raise EngineError(f"{url} cannot be reached: {type(error).__name__}", url=url) from None
