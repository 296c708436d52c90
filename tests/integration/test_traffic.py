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
    imported = [replace(turn, id=f"{IMPORTED}{number}", sampling={}) for number, turn in enumerate(turns[:3])]
    send(database_url, imported, [])
    assert Traffic.read(pool, "default", 3).longest_reply is not None
    assert Traffic.read(pool, "default", 3).sampling == {}
    served = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}
    others = [{"temperature": 1.0, "top_p": top_p} for top_p in (0.8, 0.9, 1.0)]
    recorded = [served, *others, served]  # most have a temperature of 1.0, but no two of them the same top-p
    sent = [
        replace(turn, sampling={"n": 1, "seed": number, "stop": [], **sampling})
        for number, (turn, sampling) in enumerate(zip(turns[3:], recorded, strict=True))
    ]
    send(database_url, sent, [])
    found = Traffic.read(pool, "default", 3)
    lengths = [len(turn.prompt_token_ids) for turn in sent]
    assert found.prompt_length == sum(lengths) / len(lengths)
    assert (found.sampling, found.longest_reply, found.cut_off) == (served, 12, True)
