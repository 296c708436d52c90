"""This module builds the starter model: a byte-level BPE tokenizer and a small Llama.

Training is one epoch over generated dialogues: cross-entropy on the replies only, in bfloat16 autocast with
linear learning rate decay. Muon (Jordan et al. 2024) trains the layers' matrices, AdamW the embeddings and
norms. Everything is seeded: the same machine and number of threads give the same weights. There is no
validation split and no early stopping, since no dialogue repeats.
"""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from trainer.starter.dialogues import Message, dialogues

END, PAD = "<|end|>", "<|pad|>"
SPECIAL = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>"]
# "<|" inside a message is escaped, so that a user cannot forge a turn.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}"
    "{{ '<|' + role + '|>' + (message['content'] | trim | replace('<|', '< |')) + '<|end|>' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
VOCAB_SIZE, CONTEXT_LENGTH = 2560, 1024
"""Tokens of the vocabulary; tokens of the longest sequence."""

BATCH_TOKENS = 4096
"""Tokens of a training batch, padding included."""

MUON_LR, ADAMW_LR, WARMUP_STEPS = 2e-2, 2.5e-3, 40
"""Peak learning rates, and the steps of linear warm-up."""


def build_tokenizer(seed: int) -> Any:
    """Trains a byte-level BPE on generated dialogues and adds the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = (message.content for dialogue in dialogues(20_000, seed) for message in dialogue)
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: Any, seed: int) -> Any:
    """Returns a randomly initialised Llama with about four million parameters."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=100,
    )
    return model


def encode(dialogue: list[Message], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Returns the dialogue's token ids and the loss mask: True at replies, their end tokens included."""
    ids: list[int] = []
    loss_mask: list[bool] = []
    for message in dialogue:
        content = tokenizer.encode(message.content, add_special_tokens=False)
        ids += [tokenizer.convert_tokens_to_ids(f"<|{message.role}|>"), *content, tokenizer.eos_token_id]
        loss_mask += [False] + [message.role == "assistant"] * (len(content) + 1)
    return ids[:CONTEXT_LENGTH], loss_mask[:CONTEXT_LENGTH]


def make_batches(count: int, tokenizer: Any, seed: int) -> list[list[tuple[list[int], list[bool]]]]:
    """Returns every dialogue once, in batches of similar length, in random order."""
    encoded = sorted(
        (encode(dialogue, tokenizer) for dialogue in dialogues(count, seed)), key=lambda pair: len(pair[0])
    )
    out: list[list[tuple[list[int], list[bool]]]] = [[]]
    for pair in encoded:
        if (len(out[-1]) + 1) * len(pair[0]) > BATCH_TOKENS:
            out.append([])
        out[-1].append(pair)
    random.Random(seed).shuffle(out)
    return out


def train(model: Any, tokenizer: Any, count: int, seed: int) -> None:
    """Trains for one epoch of `count` dialogues."""
    import torch
    from torch.nn import functional

    batches = make_batches(count, tokenizer, seed + 1)
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def lr_scale(step: int) -> float:
        return min((step + 1) / WARMUP_STEPS, 1 - step / len(batches))

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lr_scale) for each in optimizers]
    began = time.monotonic()
    model.train()
    for step, batch in enumerate(batches):
        longest = max(len(ids) for ids, _ in batch)
        ids_BT = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in batch])
        mask_BT = torch.tensor([mask + [False] * (longest - len(mask)) for _, mask in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden_BTD = model.model(input_ids=ids_BT[:, :-1]).last_hidden_state
            logits_NV = model.lm_head(hidden_BTD[mask_BT[:, 1:]])
        loss = functional.cross_entropy(logits_NV.float(), ids_BT[:, 1:][mask_BT[:, 1:]])
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 50 == 0 or step == len(batches) - 1:
            print(
                f"step {step:5d} of {len(batches)}  loss {loss:.3f}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
    model.eval()


def build(out: Path, seed: int = 1, count: int = 85_000, threads: int = 1) -> None:
    """Builds, evaluates and saves the model to `out`, which is replaced only when everything is complete."""
    import torch

    from trainer.starter.card import model_card
    from trainer.starter.measure import measure

    torch.set_num_threads(threads)
    began = time.monotonic()
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer, seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} tokens", flush=True)
    train(model, tokenizer, count, seed)
    seconds = time.monotonic() - began
    metrics = measure(model, tokenizer, 2000, seed)
    print(metrics.table(), flush=True)
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    command = f"python -m trainer.starter build --seed {seed} --dialogues {count}"
    (fresh / "README.md").write_text(model_card(model, metrics, seconds, command), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    print(json.dumps({"model": str(out), "seconds": round(seconds), "knowledge": metrics.knowledge}))
