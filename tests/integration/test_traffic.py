"""Traffic is read from the newest turns that people sent, or from imported ones where they sent none."""

from dataclasses import replace

from schemas.database import Pool
from schemas.turns import IMPORTED
from tests.training import add_key, send, some_turns
from trainer.data.traffic import Traffic
from trainer.model.backbone import Backbone


def test_what_people_were_served_counts_before_what_was_imported(
    database_url: str, pool: Pool, backbone: Backbone
) -> None:
    add_key(pool)
    assert Traffic.read(pool, "default", 3) == Traffic(new_votes=3)
    turns = some_turns(backbone, 8, seed=5)
    imported = [replace(turn, id=f"{IMPORTED}{number}", sampling={}) for number, turn in enumerate(turns[:4])]
    send(database_url, imported, [])
    assert Traffic.read(pool, "default", 3).longest_reply is not None
    assert Traffic.read(pool, "default", 3).temperature is None
    sent = [replace(turn, sampling={"temperature": 0.7, "top_p": 0.9}) for turn in turns[4:]]
    send(database_url, sent, [])
    found = Traffic.read(pool, "default", 3)
    lengths = [len(turn.prompt_token_ids) for turn in sent]
    assert found.prompt_length == sum(lengths) / len(lengths)
    assert (found.temperature, found.top_p, found.longest_reply, found.cut_off) == (0.7, 0.9, 12, True)
