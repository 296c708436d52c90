"""The engine suites use small random models with a shared tokenizer, adapters, and real engine processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from deploy.local import vllm
from deploy.local.ports import free_port
from schemas.settings import EngineSettings, Settings, VllmSettings

SLOTS = 5
ADAPTERS = ("p0", "p1-aaaaaa", "p2-bbbbbb", "p3-cccccc")
TEMPLATE = (
    "{% for tool in tools or [] %}<|system|>{{ tool['function']['name'] }}: "
    "{{ tool['function']['description'] or '' }}<tool_call><|end|>{% endfor %}"
    "{% for message in messages %}"
    "<|{{ 'user' if message['role'] == 'tool' else message['role'] }}|>{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>\n"
    "{\"name\": \"{{ call['function']['name'] }}\", "
    "\"arguments\": {{ call['function']['arguments'] | tojson }}}\n</tool_call>{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = [
    "The cat sat on the mat and asked for tea.",
    "What is the capital of France? It is Paris! 🙂",
    "àéü ñ 你好",
]


def shared_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens; most emoji take four of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT * 10, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def random_model(architecture: str, vocabulary: int) -> Any:
    """Two to three layers, a context of 256. Gemma's window of 16 slides in every test."""
    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,  # the least that vLLM has a CPU kernel for
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "eos_token_id": 0,
        "pad_token_id": None,
        "bos_token_id": None,
    }
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **shape))
    if architecture == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, **shape))
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(
        Gemma3TextConfig(num_hidden_layers=3, layer_types=kinds, sliding_window=16, **shape)
    )


def write_adapter(base: Path, directory: Path, seed: int) -> None:
    """A LoRA in PEFT's layout with random B; seed 0 makes the zero adapter."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    model = PeftModel(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and seed:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory)


def change(weights: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace the tensors of a safetensors file."""
    save_file(edit(load_file(weights)), weights)


class World:
    """One base with its adapters on disk, and the reference: plain transformers and PEFT on those files."""

    def __init__(self, directory: Path, architecture: str) -> None:
        self.base = directory / architecture
        self.tokenizer = shared_tokenizer()
        self.tokenizer.save_pretrained(self.base)
        random_model(architecture, len(self.tokenizer)).save_pretrained(self.base)
        self.adapters = {name: directory / f"{architecture}-{name}" for name in ADAPTERS}
        for seed, path in enumerate(self.adapters.values()):
            write_adapter(self.base, path, seed)
        self._models: dict[str, Any] = {}

    def logprobs(self, policy: str, token_ids: list[int]) -> torch.Tensor:
        """Log-probabilities (nats) of every token at each position after the first, (T − 1, V)."""
        return self.logits(policy, token_ids).log_softmax(-1)

    def logits(self, policy: str, token_ids: list[int]) -> torch.Tensor:
        """Logits of every token at each position after the first, (T − 1, V)."""
        if policy not in self._models:
            base = AutoModelForCausalLM.from_pretrained(self.base)
            self._models[policy] = PeftModel.from_pretrained(base, self.adapters[policy]).eval()
        with torch.inference_mode():
            logits = self._models[policy](input_ids=torch.tensor([token_ids])).logits
        return logits[0, :-1].clone()

    def of_tokens(self, policy: str, token_ids: list[int]) -> list[float]:
        """Log-probabilities (nats) of the tokens themselves, one for each after the first."""
        found = self.logprobs(policy, token_ids)
        return found.gather(-1, torch.tensor(token_ids[1:])[:, None]).squeeze(-1).tolist()


def start_embedded(base: Path, *flags: str) -> Iterator[str]:
    """The embedded engine as its own process; yields its url, and stops it."""
    port = free_port()
    yield from _start(["serving.embedded", "--model", str(base), "--port", str(port), *flags], port, {})


def start_vllm(base: Path, adapters: int, streams: int) -> Iterator[str]:
    """vLLM's server as `hearken up` runs it, uncompiled; yields its url, and stops it."""
    port = free_port()
    settings = Settings(
        model=str(base),
        engine=EngineSettings(kind="vllm", max_adapters=adapters, max_streams=streams),
        vllm=VllmSettings(eager=True),
    )
    yield from _start(vllm.command(settings, port), port, vllm.environment(settings))


def _start(command: list[str], port: int, environment: dict[str, str]) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **environment})
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, "the engine ended while starting"
            assert time.monotonic() < deadline, "the engine did not become ready"
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)
