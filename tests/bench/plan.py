"""This bench compares `hearken train --plan` with real training: `python -m tests.bench.plan [MODEL …]`.

Llama models with random weights in the shapes of MODELS are planned in one process and trained in another,
with prompts of each of PROMPTS tokens: an optimizer step of sampling, reference pass, training and trust
region. Both may take `--memory` GiB, from which the batches follow, and gradient checkpointing where memory
would not do; of longer prompts than fit so, the end is trained on. Memory is the process's peak resident set
once the model is loaded (without a GPU) or torch's allocations (with one), and may be off by 10%. Time is CPU
time (without a GPU), and may be off by a factor of 2. Both are medians of `--runs`, since malloc's
fragmentation varies. `--planned` plans whole rounds of PLANNED instead, on a GPU of `--memory` GiB, by shapes
alone, and asks whether they fit.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from schemas.settings import TrainerSettings
from tests.training import hyperparameters
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.rollouts import SamplingSpec, adapter_sampler
from trainer.model.tokenizer import ChatTokenizer
from trainer.planning.batches import Batches
from trainer.planning.fake_model import FakeBackbone
from trainer.planning.machine import Machine
from trainer.planning.plan import plan
from trainer.reward.features import FeatureGroups
from trainer.rl.guard import ADAPTER_COPIES, Guard
from trainer.rl.objectives import policy_objective
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.starter import MODEL_DIR

MODELS = {
    "small": (256, 4, 4, 4, 704, 2_560),
    "0.1b": (576, 30, 9, 3, 1_536, 49_152),
    "0.5b": (896, 24, 14, 2, 4_864, 151_936),
    "1.5b": (1_536, 28, 12, 2, 8_960, 151_936),
    "8b": (4_096, 36, 32, 8, 12_288, 151_936),
}
"""Width, layers, heads, heads of keys, width of the feed-forward layers, and vocabulary: the starter's, those
of SmolLM2-135M, of Qwen2.5-0.5B and 1.5B, and of Qwen3-8B."""

MEASURED, PLANNED = ("small", "0.1b", "0.5b"), ("1.5b", "8b")
PROMPTS = (512, 2_048, 8_192)
REPLY = 90
ROWS = 16
"""Replies of a step to prompts of up to 512 tokens; to longer ones, fewer."""

CONTEXT = 2**17
_GIB = 2**30


def make(directory: Path, name: str, weights: bool) -> None:
    """Writes a model with the starter's tokenizer; tokens that it does not know are never decoded here."""
    hidden, layers, heads, groups, feed, vocabulary = MODELS[name]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=feed, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=CONTEXT,
        tie_word_embeddings=name != "8b", eos_token_id=1, pad_token_id=0, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    if weights:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(directory)
    else:
        config.save_pretrained(directory)
    ChatTokenizer(MODEL_DIR).tokenizer.save_pretrained(directory)


def step(prompt: int) -> Hyperparameters:
    """The hyperparameters of one step on prompts of so many tokens."""
    prompts = max(1, ROWS // 4 * 512 // max(prompt, 512))
    return hyperparameters(
        steps_per_round=1, prompts_per_step=prompts, max_tokens=REPLY, kl_per_reply=1e9, entropy_floor=0,
        base_sft_coef=0, step_kl=1.0, samples_per_prompt=4 if prompt <= 2_048 else 2,
    )  # fmt: skip


def planned(model: Path, prompt: int, memory: int) -> dict[str, float]:
    """Returns the plan of the work that `trained` does."""
    rl = step(prompt)
    torch.set_num_threads(1)
    backbone = FakeBackbone(model, rl)
    machine = Machine.here(backbone)
    adapter = sum(weight.nbytes for weight in backbone.trainable())
    weights = sum(weight.nbytes for weight in backbone.model.parameters()) - adapter
    with backbone.mode:
        count = TokenBytes.count(backbone)
    backbone.token_budget = token_budget(backbone, count, memory, rl.samples_per_prompt)
    prompt = min(prompt, backbone.token_budget.longest_prompt(REPLY))
    batches, rows = Batches(backbone, rl, machine.rates), rl.prompts_per_step * rl.samples_per_prompt
    works = [
        batches.sample(prompt, rl.prompts_per_step, rl.samples_per_prompt),
        batches.scored_samples(prompt, rows), batches.train(prompt, rows),
        batches.trust_region(prompt, rows),
    ]  # fmt: skip
    width = batches.rows(prompt, rows) * (prompt + REPLY)
    return {
        "bytes": machine.framework
        + weights
        + ADAPTER_COPIES * adapter
        + max(each.peak.total() for each in works),
        "seconds": sum(each.seconds for each in works),
        "checkpointing": float(backbone.checkpoints(width)),
        "prompt": prompt,
    }


def trained(model: Path, prompt: int, memory: int) -> dict[str, float]:
    rl = step(prompt)
    torch.set_num_threads(1)
    backbone = Backbone(model, rl)
    generator = torch.Generator().manual_seed(0)
    objective = policy_objective(rl)
    assert objective is not None

    def reward(features: FeatureGroups) -> torch.Tensor:
        return -features["length"].float().sum(1)

    count = TokenBytes.count(backbone)
    backbone.token_budget = token_budget(backbone, count, memory, rl.samples_per_prompt)
    prompt = min(prompt, backbone.token_budget.longest_prompt(REPLY))
    prompts = torch.randint(3, 400, (64, prompt), generator=generator).tolist()
    loading = _highest(backbone.device)
    _forget_highest(backbone.device)
    clock = time.perf_counter if backbone.device.type == "cuda" else time.process_time
    began = clock()
    sampler = adapter_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator)
    sample = step_sampler(prompts, rl.prompts_per_step, sampler, generator)
    optimize(backbone, sample, ShapedReward(reward, rl), objective, Guard(backbone, rl.kl_per_reply), rl)
    seconds = clock() - began
    return {"bytes": _highest(backbone.device), "seconds": seconds, "loading": loading}


def _highest(device: torch.device) -> int:
    """Returns the peak memory; getrusage would include the parent process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _forget_highest(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _in_own_process(what: str, model: Path, prompt: int, memory: int, runs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.plan", what, str(model), str(prompt), str(memory)]
    found = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(runs)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def compare(names: Sequence[str], prompts: Sequence[int], memory: int, runs: int) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = Path(folder) / name
            make(model, name, weights=True)
            for prompt in prompts:
                estimate, real = (
                    _in_own_process(what, model, prompt, memory, runs) for what in ("planned", "trained")
                )
                row = {
                    "model": name, "prompt": prompt, "trained_on": int(estimate["prompt"]),
                    "gradient_checkpointing": bool(estimate["checkpointing"]),
                    "mib_planned": round(estimate["bytes"] / 2**20), "mib": round(real["bytes"] / 2**20),
                    "mib_loading": round(real["loading"] / 2**20),
                    "off": round(estimate["bytes"] / real["bytes"] - 1, 3),
                    "seconds_planned": round(estimate["seconds"], 1), "seconds": round(real["seconds"], 1),
                    "ratio": round(estimate["seconds"] / real["seconds"], 2),
                }  # fmt: skip
                print(json.dumps(row), flush=True)
                rows.append(row)
    _show(rows)
    return 0 if all(abs(row["off"]) <= 0.1 and 0.5 <= row["ratio"] <= 2 for row in rows) else 1


def plan_elsewhere(names: Sequence[str], prompts: Sequence[int], gib: float) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = Path(folder) / name
            make(model, name, weights=False)
            for prompt in prompts:
                found = plan(TrainerSettings(), model, prompt, Machine.gpu(gib))
                where = found.derived["gradient_checkpointing"]["value"]
                row = {
                    "model": name, "prompt": found.prompt_tokens, "reply": found.reply_tokens,
                    "gib": round(found.peak / _GIB, 1), "free": round(found.free / _GIB, 1),
                    "fits": found.fits, "gradient_checkpointing": where, **found.budget,
                }  # fmt: skip
                print(json.dumps(row), flush=True)
                rows.append(row | {"whole": found.prompt_tokens == prompt})
    _show(rows)
    return 0 if all(row["fits"] and row["whole"] for row in rows) else 1


def _show(rows: list[dict[str, object]]) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    print(json.dumps(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--planned", action="store_true", help="plan only, on a GPU that is not here")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, help="tokens")
    parser.add_argument("--memory", type=float, help="GiB; default: 6, and 80 with --planned")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if args.planned:
        return plan_elsewhere(args.models or PLANNED, args.prompts, args.memory or 80)
    return compare(args.models or MEASURED, args.prompts, int((args.memory or 6) * _GIB), args.runs)


if __name__ == "__main__":
    if sys.argv[1:2] in (["planned"], ["trained"]):
        measure = functools.partial(planned if sys.argv[1] == "planned" else trained, Path(sys.argv[2]))
        print(json.dumps(measure(int(sys.argv[3]), int(sys.argv[4]))))
    else:
        sys.exit(main())
