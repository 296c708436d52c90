"""VllmSampler samples rollouts on vLLM servers, which are faster than this process for all but small models.

Each step's adapter is written to disk and loaded under a new name, since names are never reused. Prompts are
divided among the servers; requests and replies carry token ids, so nothing is tokenised twice. Serving shares
the servers and leaves these adapters alone. An adapter that a killed trainer left behind is evicted when its
slot is needed.
"""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch

from schemas.addresses import resolve
from schemas.errors import EngineError
from schemas.policies import TRAINING
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, Sampler, SamplingSpec, all_gather_rollouts
from trainer.model.token_budget import split

CONCURRENT_PROMPTS = 8
"""Prompts in flight on each server."""

SCORED_ROWS = 16
"""Replies scored in one batch, at most."""

REQUEST_TIMEOUT = 300.0
"""Seconds for the replies to one prompt, which may queue behind chat requests."""


class VllmSampler:
    """A Sampler (`rollouts`) over the servers at `urls`, which load adapters from below `folder` and ask for
    `key` if that is given. Its log-probabilities are at temperature 1. Raises EngineError when a server
    fails."""

    def __init__(
        self,
        backbone: Backbone,
        urls: Sequence[str],
        folder: Path,
        spec: SamplingSpec,
        generator: torch.Generator,
        key: str | None = None,
    ) -> None:
        self._backbone = backbone
        self._urls = asyncio.run(resolve(list(urls)))
        if not self._urls:
            names = ", ".join(urls)
            raise EngineError(f"none of vllm.urls can be resolved: {names}", url=names)
        self._folder = folder
        self._spec = spec
        self._generator = generator
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __call__(self, prompts: Sequence[list[int]]) -> list[Rollout]:
        """Samples replies from the backbone's current adapter."""
        name = f"{TRAINING}{uuid.uuid4().hex}"
        directory = self._folder.absolute() / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            save_adapter(self._backbone, directory)
            client = stack.enter_context(httpx.Client(timeout=REQUEST_TIMEOUT, headers=self._headers))
            for url in self._urls:
                adapter = {"lora_name": name, "lora_path": str(directory)}
                _post(client, f"{url}/v1/load_lora_adapter", adapter)
                stack.callback(_post, client, f"{url}/v1/unload_lora_adapter", {"lora_name": name})
            seeds = torch.randint(2**31, (len(prompts),), generator=self._generator).tolist()
            threads = stack.enter_context(ThreadPoolExecutor(CONCURRENT_PROMPTS * len(self._urls)))
            requests = zip(itertools.cycle(self._urls), range(len(prompts)), prompts, seeds, strict=False)
            replies = list(threads.map(lambda each: self._complete(client, name, *each), requests))
        return [rollout for rollouts in replies for rollout in rollouts]

    def _complete(
        self, client: httpx.Client, name: str, url: str, number: int, prompt: list[int], seed: int
    ) -> list[Rollout]:
        completion = _post(
            client,
            f"{url}/v1/completions",
            {
                "model": name,
                "prompt": prompt,
                "n": self._spec.samples_per_prompt,
                "max_tokens": self._spec.max_tokens,
                "temperature": self._spec.temperature,
                "top_p": self._spec.top_p,
                "top_k": 0,  # this and the next two, lest a server apply the base's own defaults
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "seed": seed,
                "stop_token_ids": self._backbone.eos_ids,
                "logprobs": 0,
                "return_token_ids": True,
            },
        ).json()
        return [
            Rollout(
                number, choice["token_ids"], choice["logprobs"]["token_logprobs"],
                choice["finish_reason"] == "stop",
            )
            for choice in sorted(completion["choices"], key=lambda choice: int(choice["index"]))
        ]  # fmt: skip


def vllm_sampler(
    backbone: Backbone,
    urls: Sequence[str],
    folder: Path,
    spec: SamplingSpec,
    generator: torch.Generator,
    key: str | None = None,
) -> Sampler:
    """Returns a sampler of the current adapter on the servers, which the main process asks. Servers
    report log-probabilities at temperature 1; at another, all processes compute them here."""
    ask = VllmSampler(backbone, urls, folder, spec, generator, key)

    def sampler(prompts: Sequence[list[int]]) -> list[Rollout]:
        group = backbone.group
        rollouts = all_gather_rollouts(group, ask(prompts) if group.is_main else [])
        return rollouts if spec.temperature == 1 else _rescore(backbone, prompts, rollouts, spec.temperature)

    return sampler


@torch.no_grad()
def _rescore(
    backbone: Backbone, prompts: Sequence[list[int]], rollouts: list[Rollout], temperature: float
) -> list[Rollout]:
    """Returns the rollouts with their log-probabilities at `temperature`."""
    lengths = [(len(prompts[each.prompt]), len(each.token_ids)) for each in rollouts]
    scored: list[Rollout] = []
    for rows in split(lengths, backbone.token_budget.training, SCORED_ROWS, backbone.group.size):
        part = rollouts[rows]
        padded = backbone.pad([prompts[each.prompt] for each in part], [each.token_ids for each in part])
        with backbone.full_precision():
            logprobs_BR = backbone.logprobs_BR(padded, temperature)
        for each, logprobs_R, mask_R in zip(part, logprobs_BR, padded.reply_mask_BR.bool(), strict=True):
            scored.append(replace(each, logprobs=logprobs_R[mask_R].tolist()))
    return scored


def _post(client: httpx.Client, url: str, body: dict[str, Any]) -> httpx.Response:
    try:
        return client.post(url, json=body).raise_for_status()
    except httpx.HTTPStatusError as error:
        response = error.response
        raise EngineError(
            f"{url} answered {response.status_code}: {response.text[:200]}",
            url=url,
            status=response.status_code,
        ) from None
    except httpx.HTTPError as error:
        raise EngineError(f"{url} cannot be reached: {type(error).__name__}", url=url) from None
