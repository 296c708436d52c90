"""Each vote is assigned to the reply that it was cast on."""

from dataclasses import replace

from feedback.open_log import open_log
from schemas.database import Pool
from schemas.feedback import Thumb
from schemas.settings import RewardSettings, Settings
from tests.training import add_key, ranked, send, some_turns
from trainer.data import examples
from trainer.data.ingest import ingest
from trainer.model.backbone import Backbone


def test_a_vote_on_an_early_turn_is_assigned_to_that_turn(
    pool: Pool, database_url: str, backbone: Backbone
) -> None:
    add_key(pool)
    history = []
    conversation = []
    for turn in some_turns(backbone, 4, seed=1):
        history = [*history, *turn.messages]
        prompt = backbone.render(history)
        conversation.append(
            replace(turn, conversation_id="long", messages=history, prompt_token_ids=prompt, rater="u_ada")
        )
        history = [*history, {"role": "assistant", "content": turn.replies[0].text}]
    first, second, third, _ = conversation
    thumb = Thumb(type="thumb", completion_id=second.id, choice=1, value="down")
    send(database_url, conversation, [(second, thumb), ranked(first, [[1], [0]])])
    ingest(pool, open_log(Settings(database_url=database_url), pool))

    corpus = examples.load(pool, "default", backbone, examples.active_events(pool, "default"))
    votes, keys = corpus.votes(corpus.examples, RewardSettings())
    assert keys == [(second.id, "1"), (first.id, "0"), (first.id, "1")]
    assert votes.thumbs == [(0, 0, 0, False)]
    assert [row[2] for row in votes.stages[2]] == [[2, 1]]
    reply = corpus.replies[second.id, "1"]
    assert (reply.prompt_ids, reply.token_ids) == (second.prompt_token_ids, second.replies[1].token_ids)
    assert len(first.prompt_token_ids) < len(reply.prompt_ids) < len(third.prompt_token_ids)
    assert {turn for turn, _ in corpus.replies} == {first.id, second.id}
