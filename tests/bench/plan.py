"""This bench compares `hearken train --plan` with real training: `python -m tests.bench.plan [SIZE …]`.

Llama models with random weights are planned in one process and trained in another: two optimizer steps with
sampling, reference pass and training, on prompts of 64 tokens and replies of 90. Memory is the process's peak
resident set (without a GPU) or torch's allocations (with one), and may be off by 10%. Time is CPU time
(without a GPU), and may be off by a factor of 2. Both are medians of RUNS, since malloc's fragmentation
varies. Sizes are small, medium and large; the default is all.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from schemas.settings import TrainerSettings
from tests.training import hyperparameters
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.device import free_memory
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.rollouts import SamplingSpec, adapter_sampler
from trainer.model.tokenizer import ChatTokenizer
from trainer.planning.plan import plan
from trainer.reward.features import FeatureGroups
from trainer.rl.guard import Guard
from trainer.rl.objectives import policy_objective
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.starter import MODEL_DIR

SHAPES = {"small": (256, 4), "medium": (512, 8), "large": (768, 16)}
"""Hidden size and layers: 4, 27 and 118 million parameters with the starter's vocabulary."""

VOCABULARIES = (2_560, 32_768)
PROMPT = 64
RL = hyperparameters(steps_per_round=2, kl_per_reply=1e9, entropy_floor=0, base_sft_coef=0)
PHASES = ("sampling", "reference pass", "training")
RUNS = 3


def make(directory: Path, hidden: int, layers: int, vocabulary: int) -> None:
    """Writes a model with the starter's tokenizer; tokens that it does not know are never decoded here."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
        max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    ChatTokenizer(MODEL_DIR).tokenizer.save_pretrained(directory)


def planned(model: Path, rl: Hyperparameters) -> dict[str, float]:
    """Returns the plan of the phases that `trained` runs."""
    found = plan(TrainerSettings(rl=rl), model, PROMPT)
    work = [found.phases[name] for name in PHASES]
    resident = sum(found.resident.values())
    return {
        "bytes": resident + max(each.peak.total() for each in work),
        "seconds": sum(each.seconds for each in work),
    }


def trained(model: Path, rl: Hyperparameters) -> dict[str, float]:
    torch.set_num_threads(1)
    backbone = Backbone(model, rl)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 400, (64, PROMPT), generator=generator).tolist()
    objective = policy_objective(rl)
    assert objective is not None

    def reward(features: FeatureGroups) -> torch.Tensor:
        return -features["length"].float().sum(1)

    count, memory = TokenBytes.count(backbone), free_memory(backbone.device)
    backbone.token_budget = token_budget(backbone, count, memory, rl.samples_per_prompt)
    clock = time.perf_counter if backbone.device.type == "cuda" else time.process_time
    began = clock()
    sampler = adapter_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator)
    sample = step_sampler(prompts, rl.prompts_per_step, sampler, generator)
    optimize(backbone, sample, ShapedReward(reward, rl), objective, Guard(backbone, rl.kl_per_reply), rl)
    return {"bytes": _highest(backbone.device), "seconds": clock() - began}


def _highest(device: torch.device) -> int:
    """Returns the peak memory; getrusage would include the parent process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _in_own_process(what: str, model: Path, checkpointing: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.plan", what, str(model), str(int(checkpointing))]
    found = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(RUNS)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def main(sizes: list[str]) -> int:
    table = Table(
        "model",
        "vocabulary",
        "checkpointing",
        "MiB planned",
        "taken",
        "off",
        "s planned",
        "taken",
        "ratio",
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes or SHAPES:
            for vocabulary in VOCABULARIES:
                model = Path(folder) / f"{size}-{vocabulary}"
                make(model, *SHAPES[size], vocabulary)
                for checkpointing in (False, True):
                    estimate, real = (
                        _in_own_process(what, model, checkpointing) for what in ("planned", "trained")
                    )
                    off = estimate["bytes"] / real["bytes"] - 1
                    ratio = estimate["seconds"] / real["seconds"]
                    cells = [f"{each['bytes'] / 2**20:,.0f}" for each in (estimate, real)]
                    times = [f"{each['seconds']:.1f}" for each in (estimate, real)]
                    row = [
                        size,
                        str(vocabulary),
                        str(checkpointing),
                        *cells,
                        f"{off:+.1%}",
                        *times,
                        f"{ratio:.2f}",
                    ]
                    print(*row, flush=True)
                    table.add_row(*row)
                    rows.append(
                        {
                            "model": model.name,
                            "gradient_checkpointing": checkpointing,
                            "off": off,
                            "ratio": ratio,
                        }
                    )
    Console().print(table)
    print(json.dumps(rows))
    return 0 if all(abs(row["off"]) <= 0.1 and 0.5 <= row["ratio"] <= 2 for row in rows) else 1


if __name__ == "__main__":
    if sys.argv[1:2] in (["planned"], ["trained"]):
        measure = planned if sys.argv[1] == "planned" else trained
        settings = RL.model_copy(update={"gradient_checkpointing": sys.argv[3] == "1"})
        print(json.dumps(measure(Path(sys.argv[2]), settings)))
    else:
        sys.exit(main(sys.argv[1:]))
