"""How fast an engine answers with a given base: `python -m tests.bench.engine --model DIR [--kind vllm]`.

The engine runs alone, with a LoRA of rank 16 on every layer, as the live policy has. One person asks 8
questions one after the other; then 8 people ask 3 each at once. Replies have up to 80 tokens, by the base's
generation defaults. The medians of three rounds are printed, as text and as one line of JSON. With targets
(`--alone 18 --together 70`), exit code 1 says that one was missed. About 3 minutes for 135 million parameters
on two cores, which must be idle.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from deploy.local.base_model import base_directory
from schemas.chat import parse_chat
from schemas.generation_defaults import read_generation_defaults
from schemas.policies import WEIGHTS
from schemas.settings import Settings
from serving.engine import EngineClient
from tests.contract.engines import start_embedded, start_vllm

POLICY = "p1-abcdef"
PEOPLE = 8
EACH = 3  # questions of each of them
ROUNDS = 3
TOKENS = 80
QUESTIONS = [
    "How do I boil an egg?",
    "What should I cook for two friends tonight?",
    "Explain what a mortgage is.",
    "My plant has yellow leaves. What can I do?",
    "Write a short thank-you note to a neighbour.",
    "How far is the moon?",
    "Give me a plan for a rainy Sunday.",
    "Why do cats purr?",
]


@dataclass(frozen=True, slots=True)
class Round:
    """`alone` and `together` are tokens/s to one person and to all at once, `alone_cpu` and `together_cpu`
    the engine's CPU seconds a token then, prompts included. `first` is seconds to the first token of a reply
    that runs alone."""

    alone: float
    together: float
    first: float
    alone_cpu: float
    together_cpu: float


def write_adapter(base: Path, directory: Path) -> None:
    """Writes a small random LoRA for every linear layer but the head, from the shapes of `base` alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    rl = Settings().trainer.rl
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            shapes = {"A": (rl.rank, module.in_features), "B": (module.out_features, rl.rank)}
            for matrix, shape in shapes.items():
                weight = torch.randn(shape, generator=generator) * (0.02 if matrix == "A" else 0.002)
                tensors[f"base_model.model.{name}.lora_{matrix}.weight"] = weight
    directory.mkdir()
    save_file(tensors, directory / WEIGHTS)
    layers = {name.split(".")[-3] for name in tensors}
    LoraConfig(r=rl.rank, lora_alpha=rl.alpha, target_modules=layers).save_pretrained(str(directory))


@contextmanager
def engine(kind: str, base: Path) -> Iterator[str]:
    settings = Settings()
    if kind == "vllm":
        starting = start_vllm(base, settings.engine.max_adapters, settings.engine.max_streams)
    else:
        starting = start_embedded(base, "--threads", str(settings.engine.threads))
    try:
        yield next(starting)
    finally:
        starting.close()


def cpu_seconds() -> float:
    """CPU time of the engine's processes."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)


async def ask(client: EngineClient, question: str, sampling: dict[str, Any]) -> list[float]:
    """Returns when the question was asked and when each token of the reply came."""
    moments = [time.perf_counter()]
    async for delta in client.stream(POLICY, [{"role": "user", "content": question}], sampling):
        moments += [time.perf_counter()] * len(delta.token_ids)
    return moments


async def measure(client: EngineClient, sampling: dict[str, Any]) -> Round:
    started = cpu_seconds()
    alone = [await ask(client, question, sampling) for question in QUESTIONS]
    seconds = sum(moments[-1] - moments[1] for moments in alone)
    alone_cpu = cpu_seconds() - started

    async def person(number: int) -> int:
        questions = [QUESTIONS[(number + turn) % len(QUESTIONS)] for turn in range(EACH)]
        return sum([len(await ask(client, question, sampling)) - 1 for question in questions])

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(person(number) for number in range(PEOPLE))))
    together = tokens / (time.perf_counter() - began)
    together_cpu = cpu_seconds() - started - alone_cpu
    return Round(
        alone=sum(len(moments) - 2 for moments in alone) / seconds,
        together=together,
        first=statistics.median(moments[1] - moments[0] for moments in alone),
        alone_cpu=alone_cpu / sum(len(moments) - 1 for moments in alone),
        together_cpu=together_cpu / tokens,
    )


async def measure_rounds(url: str, adapter: Path, sampling: dict[str, Any]) -> list[Round]:
    client = EngineClient(url, timeout=120)
    await client.load(POLICY, adapter)
    await ask(client, QUESTIONS[0], sampling)  # warming up
    found = []
    for _ in range(ROUNDS):
        found.append(await measure(client, sampling))
        print(f"  {found[-1].alone:.1f} alone, {found[-1].together:.1f} together, {found[-1].first:.2f} s")
    await client.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__)
    parser.add_argument("--model", default="starter", help="the base: `starter`, `smollm2`, or a directory")
    parser.add_argument("--kind", choices=["embedded", "vllm"], default="embedded")
    parser.add_argument("--alone", type=float, default=0.0, help="least tokens/s to one person")
    parser.add_argument("--together", type=float, default=0.0, help="least tokens/s to 8 at once in all")
    arguments = parser.parse_args()
    base = base_directory(arguments.model)
    question = parse_chat({"messages": [{"role": "user", "content": "Hi"}]})
    sampling = question.sampling(TOKENS, read_generation_defaults(base))
    with TemporaryDirectory(prefix="hearken-bench-") as folder, engine(arguments.kind, base) as url:
        write_adapter(base, Path(folder) / POLICY)
        rounds = asyncio.run(measure_rounds(url, Path(folder) / POLICY, sampling))
    median = Round(*(statistics.median(column) for column in zip(*map(astuple, rounds), strict=True)))
    print(
        f"{median.alone:.1f} tokens/s to one person, {median.together:.1f} to {PEOPLE} at once; first "
        f"token {median.first:.2f} s; {median.alone_cpu * 1e3:.1f}, {median.together_cpu * 1e3:.1f} ms "
        "of CPU a token"
    )
    print(json.dumps(asdict(median)))
    return 0 if median.alone >= arguments.alone and median.together >= arguments.together else 1


if __name__ == "__main__":
    sys.exit(main())
