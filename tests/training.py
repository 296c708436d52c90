"""What tests of training share: a tiny base, and votes on replies that it gave, sent as serving does."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from feedback.store import Store
from schemas.database import Pool, open_async_pool
from schemas.feedback import Edit, Ranking, Thumb, Vote
from schemas.policies import Manifest
from schemas.settings import Settings
from schemas.turns import Reply, Turn
from schemas.verification import RegisteredPolicy, verify
from tests.contract.engines import shared_tokenizer
from trainer import projects
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample


def accept(row: dict[str, Any], base: str) -> Manifest:
    """Returns the manifest of a registered policy, whose directory must be whole."""
    policy = RegisteredPolicy(row["project"], row["id"], Path(row["directory"]), row["digest"])
    return verify(policy, base, None)


def hyperparameters(**values: object) -> Hyperparameters:
    """Hyperparameters of a small round; the trust region is so wide that it changes no step."""
    small = {"learning_rate": 2e-3, "steps_per_round": 8, "prompts_per_step": 32, "max_tokens": 90}
    return Hyperparameters.model_validate(small | {"step_kl": 1e9} | values)


def write_encoder(directory: Path, seed: int = 0) -> Path:
    """A tiny BERT with random weights, whose context is 64 tokens."""
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id or 0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(directory)
    return directory


WORDS = ["red", "blue", "green", "yellow", "tree", "river", "stone", "cloud", "bird", "fish"]


def small_settings(database_url: str, data_dir: Path, model: Path, **trainer: object) -> Settings:
    """Rounds of a second: two steps, few prompts, three members, and a gate that a random model can pass."""
    settings = Settings(database_url=database_url, data_dir=data_dir, model=str(model))
    rl = settings.trainer.rl.model_copy(
        update={
            "steps_per_round": 2,
            "prompts_per_step": 4,
            "samples_per_prompt": 4,
            "max_tokens": 12,
            "no_eos_penalty": 0.0,
        }
    )
    gate = settings.trainer.gate.model_copy(
        update={"eval_prompts": 4, "max_no_eos_increase": 1.0, "max_repetition_increase": 1.0}
    )
    reward = settings.trainer.reward.model_copy(update={"members": 3})
    settings.trainer = settings.trainer.model_copy(
        update={"rl": rl, "gate": gate, "reward": reward, "min_votes": 8, "round_votes": 10, **trainer}
    )
    return settings


def the_round(settings: Settings) -> dict[str, Any]:
    """Runs one round and returns its record."""
    assert projects.run(settings, once=True) == 0
    record: dict[str, Any] = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    return record


def add_key(pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute(
            "insert into keys (id, project, kind, hash) values ('default-admin', 'default', 'admin', 'x')"
        )


def some_turns(backbone: Backbone, count: int, seed: int, replies: int = 2) -> list[Turn]:
    """Turns with random prompts, answered by the base."""
    rng = random.Random(seed)
    messages = [[{"role": "user", "content": " ".join(rng.choices(WORDS, k=4))}] for _ in range(count)]
    prompts = [backbone.render(message) for message in messages]
    with backbone.reference():
        rollouts = sample(backbone, prompts, SamplingSpec(replies, 12), torch.Generator().manual_seed(seed))
    turns = []
    for index, prompt in enumerate(prompts):
        own = [rollout for rollout in rollouts if rollout.prompt == index]
        texts = [backbone.decode(rollout.token_ids).replace("\x00", "") for rollout in own]
        turns.append(
            Turn(
                id=f"chatcmpl-{seed}-{index}",
                project="default",
                conversation_id=f"conv-{seed}-{index}",
                rater=f"u_{index % 5}",
                key_id="default-admin",
                messages=messages[index],
                prompt_token_ids=prompt,
                sampling={"temperature": 1.0, "top_p": 1.0},
                replies=[
                    Reply(
                        choice, "p0", 0.98, texts[choice], r.token_ids, r.logprobs,
                        "stop" if r.ended else "length",
                    )
                    for choice, r in enumerate(own)
                ],
            )
        )  # fmt: skip
    return turns


def thumbs_by_parity(turns: list[Turn], why_not: Sequence[str] = ()) -> list[tuple[Turn, Vote]]:
    """Up for replies whose first token is even: a taste that the base's replies differ in. Thumbs down have
    the reasons `why_not`."""
    return [
        (
            turn,
            Thumb(
                type="thumb",
                completion_id=turn.id,
                value="up" if turn.replies[0].token_ids[0] % 2 == 0 else "down",
                reasons=[] if turn.replies[0].token_ids[0] % 2 == 0 else list(why_not),
            ),
        )
        for turn in turns
    ]


def ranked(
    turn: Turn, groups: list[list[int]], acceptable: bool = True, why: Sequence[str] = ()
) -> tuple[Turn, Vote]:
    said = {"ranking": groups, "acceptable": acceptable, "reasons": list(why)}
    return turn, Ranking.model_validate({"type": "ranking", "completion_id": turn.id, **said})


def edited(turn: Turn, text: str) -> tuple[Turn, Vote]:
    return turn, Edit(type="edit", completion_id=turn.id, text=text)


def send(database_url: str, turns: list[Turn], votes: list[tuple[Turn, Vote]]) -> list[str]:
    """Record turns and votes as the API does; returns the votes' ids."""

    async def record() -> list[str]:
        async with open_async_pool(database_url, size=2) as pool:
            store = Store(pool)
            for turn in turns:
                await store.record_turn(turn)
            ids = []
            for turn, vote in votes:
                votable = await store.votable_turn(turn.id)
                assert votable is not None
                ids.append((await store.submit(votable, vote, turn.rater)).id)
            return ids

    return asyncio.run(record())


def retract(database_url: str, feedback_id: str) -> None:
    async def take_back() -> None:
        async with open_async_pool(database_url, size=2) as pool:
            store = Store(pool)
            found = await store.find(feedback_id)
            assert found is not None
            await store.retract(found)

    asyncio.run(take_back())
