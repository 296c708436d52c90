"""Replies sampled by vLLM's servers, which are faster at it than this process for any but a small model.

Each step's adapter is written to disk and loaded under a name of its own, since names are never reused; the
prompts are divided among the servers, which get token ids and give token ids and logprobs back, so nothing is
ever tokenised again. Serving, which shares the servers, leaves adapters of that kind alone; what a trainer
that was killed left on a server goes when its place is wanted.
"""

import asyncio
import itertools
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import torch

from schemas.addresses import resolve
from schemas.errors import EngineError
from schemas.policies import TRAINING
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec

CONCURRENT_PROMPTS = 8
"""Prompts under way at a time on each server."""

REQUEST_TIMEOUT = 300.0
"""Seconds for the replies to one prompt, which may wait behind those that people asked for."""


class VllmSampler:
    """A Sampler (`rollouts`) over the servers at `urls`, which read adapters below `folder`. Raises
    EngineError when one fails."""

    def __init__(
        self,
        backbone: Backbone,
        urls: Sequence[str],
        folder: Path,
        spec: SamplingSpec,
        generator: torch.Generator,
    ) -> None:
        self._backbone = backbone
        self._urls = asyncio.run(resolve(list(urls)))
        if not self._urls:
            names = ", ".join(urls)
            raise EngineError(f"none of vllm.urls can be found: {names}", url=names)
        self._folder = folder
        self._spec = spec
        self._generator = generator

    def __call__(self, prompts: Sequence[list[int]]) -> list[Rollout]:
        """Replies of the backbone's adapter as it is now."""
        name = f"{TRAINING}{uuid.uuid4().hex}"
        directory = self._folder.absolute() / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            save_adapter(self._backbone, directory)
            client = stack.enter_context(httpx.Client(timeout=REQUEST_TIMEOUT))
            for url in self._urls:
                adapter = {"lora_name": name, "lora_path": str(directory)}
                _post(client, f"{url}/v1/load_lora_adapter", adapter)
                stack.callback(_post, client, f"{url}/v1/unload_lora_adapter", {"lora_name": name})
            seeds = torch.randint(2**31, (len(prompts),), generator=self._generator).tolist()
            threads = stack.enter_context(ThreadPoolExecutor(CONCURRENT_PROMPTS * len(self._urls)))
            asked = zip(itertools.cycle(self._urls), range(len(prompts)), prompts, seeds, strict=False)
            found = list(threads.map(lambda each: self._ask(client, name, *each), asked))
        return [rollout for rollouts in found for rollout in rollouts]

    def _ask(
        self, client: httpx.Client, name: str, url: str, number: int, prompt: list[int], seed: int
    ) -> list[Rollout]:
        answer = _post(
            client,
            f"{url}/v1/completions",
            {
                "model": name,
                "prompt": prompt,
                "n": self._spec.samples_per_prompt,
                "max_tokens": self._spec.max_tokens,
                "temperature": 1.0,
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
            for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        ]  # fmt: skip


def _post(client: httpx.Client, url: str, body: dict[str, Any]) -> httpx.Response:
    try:
        return client.post(url, json=body).raise_for_status()
    except httpx.HTTPStatusError as error:
        answer = error.response
        raise EngineError(
            f"{url} answered {answer.status_code}: {answer.text[:200]}", url=url, status=answer.status_code
        ) from None
    except httpx.HTTPError as error:
        raise EngineError(f"{url} cannot be reached: {type(error).__name__}", url=url) from None
