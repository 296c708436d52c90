"""A round leaves out votes that are invalid, or records why it was skipped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.database import Pool
from schemas.feedback import Thumb
from schemas.policies import BASE
from schemas.settings import Settings
from tests.contract.engines import random_model, shared_tokenizer
from tests.training import add_key, edited, send, small_settings, some_turns, the_round, thumbs_by_parity
from trainer.model.backbone import Backbone


@pytest.fixture
def settings(database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool) -> Settings:
    add_key(pool)
    return small_settings(database_url, tmp_path, tiny_base)


@pytest.mark.parametrize(
    ("spare", "truncated", "unreadable"), [(3, 0, 0), (0, 0, 0), (-1, 1, 0), (None, 0, 1)]
)
def test_an_edit_is_used_if_it_fits_into_the_context_with_the_end_of_its_prompt(
    settings: Settings,
    pool: Pool,
    backbone: Backbone,
    database_url: str,
    spare: int | None,
    truncated: int,
    unreadable: int,
) -> None:
    turns = some_turns(backbone, 20, seed=11)
    room = backbone.context_length - 1  # one for the end
    if spare is not None:
        room -= len(turns[0].prompt_token_ids) + spare
    assert len(backbone.encode_reply("?" * room)) == room + 1
    send(database_url, turns, [edited(turns[0], "?" * room), *thumbs_by_parity(turns[1:])])
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}
    assert (record["votes_truncated"], record["unreadable"]) == (truncated, unreadable)


def test_token_ids_outside_the_vocabulary_are_left_out(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=12)
    send(database_url, turns, thumbs_by_parity(turns))
    with pool.connection() as connection:
        connection.execute(
            "update replies set token_ids = array[5, %s] where turn_id = %s",
            [backbone.vocab_size, turns[0].id],
        )
        connection.execute("update turns set prompt_token_ids = array[-1, 5] where id = %s", [turns[1].id])
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}
    assert record["unreadable"] == 2


def test_votes_on_empty_or_missing_replies_are_left_out_and_a_truncated_one_is_used(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 22, seed=18)
    send(database_url, turns, thumbs_by_parity(turns[:20]))  # the last two have no votes
    with pool.connection() as connection:
        connection.execute("update replies set token_ids = '{}' where turn_id = %s", [turns[0].id])
        connection.execute("delete from replies where turn_id = %s", [turns[1].id])
        connection.execute(
            "update replies set token_ids = token_ids[:1], finish_reason = 'length' where turn_id = %s",
            [turns[2].id],
        )
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}
    assert record["unreadable"] == 2
    assert record["examples"] + record["held_out"] == 18


def test_one_rater_is_enough(settings: Settings, pool: Pool, backbone: Backbone, database_url: str) -> None:
    turns = [replace(turn, rater="u_only") for turn in some_turns(backbone, 20, seed=13)]
    send(database_url, turns, thumbs_by_parity(turns))
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}
    assert [rater["rater"] for rater in record["raters"]] == ["u_only"]


def test_contradicting_raters_do_not_fail_a_round(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=14)
    votes = thumbs_by_parity(turns)
    against = [
        (replace(turn, rater=f"against_{turn.rater}"),
         vote.model_copy(update={"value": "down" if vote.value == "up" else "up"}))
        for turn, vote in votes
    ]  # fmt: skip
    send(database_url, turns, [*votes, *against])
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}
    reward = record["optimization"]["steps"][0]["reward"]
    assert abs(reward) < 10


def test_a_round_with_unreadable_votes_only_is_skipped(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 12, seed=15)
    send(database_url, turns, thumbs_by_parity(turns))
    with pool.connection() as connection:
        connection.execute("update turns set prompt_token_ids = array[-1, 5]")
    record = the_round(settings)
    assert (record["outcome"], record["reason"]) == ("skipped", "no prompts to train on")
    with pool.connection() as connection:
        assert connection.execute("select live from routes").fetchone() == {"live": BASE}


def write_silent_base(directory: Path) -> Path:
    """A base that ends each reply at once: one direction of the hidden states is the same whatever is read,
    and the end token alone looks for it."""
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    model = random_model("llama", len(tokenizer))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 100.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 10.0
    model.save_pretrained(directory)
    return directory


def test_a_base_whose_replies_are_all_empty_teaches_nothing_and_says_so(
    database_url: str, tmp_path: Path, pool: Pool
) -> None:
    add_key(pool)
    base = write_silent_base(tmp_path / "silent")
    settings = small_settings(database_url, tmp_path / "data", base)
    turns = some_turns(Backbone(base, settings.trainer.rl), 20, seed=16)
    assert {reply.text for turn in turns for reply in turn.replies} == {""}
    send(
        database_url,
        turns,
        [
            (turn, Thumb(type="thumb", completion_id=turn.id, value="down" if number % 2 else "up"))
            for number, turn in enumerate(turns)
        ],
    )
    record = the_round(settings)
    assert (record["outcome"], record["reason"].partition(",")[0]) == (
        "skipped", "all votes are on one and the same reply",
    )  # fmt: skip
    with pool.connection() as connection:
        assert connection.execute("select live from routes").fetchone() == {"live": BASE}
