"""The tastes of the bench `everyday` on one base: which leave room, and which one a seed draws."""

from tests.bench.everyday_prompts import HELD_OUT, SPARE
from tests.bench.judgment import BEST_OF, judge_base
from tests.bench.served_replies import BaseReplies, ServedAt
from tests.bench.tastes import Taste, draw, tastes, with_room
from trainer.model.backbone import Backbone

SPARE_REPLIES = 4
"""Replies of the base to each spare prompt, from which thresholds of tastes and the room for them follow."""


def choose(backbone: Backbone, served_at: ServedAt, seed: int, name: str | None) -> Taste:
    """Returns the taste of that name, or one that the seed draws from those that leave room."""
    texts = spare_texts(backbone, served_at)
    return tastes(texts)[name] if name else draw(seed, with_room(texts))


def spare_texts(backbone: Backbone, served_at: ServedAt) -> list[str]:
    replies = BaseReplies(backbone, served_at).of(SPARE, SPARE_REPLIES)
    return [backbone.decode(reply) for of_prompt in replies for reply in of_prompt]


def print_table(backbone: Backbone, served_at: ServedAt) -> None:
    """Prints how each taste likes the base's replies to spare and to held-out prompts."""
    texts = spare_texts(backbone, served_at)
    room, base = with_room(texts), BaseReplies(backbone, served_at)
    base.of(HELD_OUT, BEST_OF)
    speed, speed_16 = base.speed(SPARE, SPARE_REPLIES), base.speed(HELD_OUT, BEST_OF)
    print(f"{served_at}: {speed:.0f} and {speed_16:.0f} tokens/s in batches")
    print(f"{'taste':20} {'spare':>6} {'base':>6} {'best16':>7} {'length':>7} {'liked':>6}  room")
    for name, taste in tastes(texts).items():
        found = judge_base(backbone, base, HELD_OUT, taste)
        approvals = f"{taste.approval(texts):6.2f} {found.approval:6.2f} {found.best:7.2f}"
        lengths = f"{found.length:7.1f} {found.liked_length:6.1f}"
        print(f"{name:20} {approvals} {lengths}  {'yes' if name in room else 'no'}")
