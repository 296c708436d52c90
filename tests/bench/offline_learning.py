"""How well the trainer learns a hidden taste, without the service around it: votes are cast directly on
sampled replies, and rounds follow each other as they do under `hearken up`.

    python tests/bench/offline_learning.py --seeds 1 2 3 4 5

The tastes and the noise are those of the simulated people (`deploy.people`); the trainer never sees them.
While a round trains, people vote on the policy before it, so a batch of votes is one policy old, as live.
"""

import argparse
import random
import resource
import time
from pathlib import Path

import torch

from deploy.people import Person, crowd
from schemas.settings import TrainerSettings
from trainer import knowledge, reward_model
from trainer.backbone import Backbone
from trainer.improve import improve, measure
from trainer.likelihood import Votes
from trainer.objectives import on_samples
from trainer.rollouts import in_process, sample
from trainer.starter import MODEL_DIR
from trainer.starter.styles import styles
from trainer.starter.world import prompts as world_prompts


class Ballots:
    """All votes so far, with the views of the replies that they are about."""

    def __init__(self, raters: int) -> None:
        self.votes = Votes(raters)
        self.prompts: list[list[int]] = []
        self.replies: list[list[int]] = []
        self.views: dict[str, torch.Tensor] = {}

    def reply(self, prompt: list[int], token_ids: list[int]) -> int:
        self.prompts.append(prompt)
        self.replies.append(token_ids)
        return len(self.replies) - 1


def vote(
    backbone: Backbone, ballots: Ballots, people: list[Person], count: int, seed: int
) -> list[list[int]]:
    """`count` votes on the policy as it is: 70% thumbs, 20% side by side, 10% edits; returns the prompts."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    asked = world_prompts(count, seed)
    ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
    with backbone.merged():
        rollouts = sample(backbone, ids, 2, 90, generator)
    for index, prompt in enumerate(asked):
        rater = rng.randrange(len(people))
        pair = [rollout.token_ids for rollout in rollouts[2 * index : 2 * index + 2]]
        texts = [backbone.decode(tokens) for tokens in pair]
        kind = rng.random()
        if kind < 0.7:
            ballots.votes.thumb(
                rater, [ballots.reply(ids[index], pair[0])], people[rater].thumb(texts[0], rng)
            )
        elif kind < 0.9:
            groups, acceptable = people[rater].ranking(texts, rng)
            numbers = [ballots.reply(ids[index], tokens) for tokens in pair]
            ballots.votes.ranking(rater, [[numbers[i] for i in group] for group in groups], numbers[0])
            if not acceptable:
                ballots.votes.thumb(rater, numbers, False)
        else:
            edited = people[rater].edit(texts[0], prompt.accept or (), rng)
            number = ballots.reply(ids[index], backbone.encode_reply(edited))
            ballots.votes.edit(rater, number, ballots.reply(ids[index], pair[0]))
    start = len(next(iter(ballots.views.values()), []))
    fresh = measure(backbone, ballots.prompts[start:], ballots.replies[start:]).views
    ballots.views = (
        {name: torch.cat([ballots.views[name], fresh[name]]) for name in fresh} if start else fresh
    )
    return ids


def approval(backbone: Backbone, person: Person, count: int, seed: int) -> tuple[float, str]:
    """True share of liked replies on prompts never seen in training, and that of each axis of the taste."""
    asked = world_prompts(count, 10_000 + seed)
    ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
    with backbone.merged():
        rollouts = sample(backbone, ids, 1, 90, torch.Generator().manual_seed(seed))
    texts = [backbone.decode(r.token_ids) for r in rollouts]
    held = [[styles(text)[axis] == value for axis, value in person.taste.wants] for text in texts]
    axes = " ".join(f"{sum(column) / count:.2f}" for column in zip(*held, strict=True))
    return sum(map(all, held)) / count, axes


def known_share(backbone: Backbone, probes: list[knowledge.Probe], generator: torch.Generator) -> float:
    """Share of the probes that the policy answers rightly, over two replies to each."""
    with backbone.merged():
        return sum(knowledge.ask(backbone, probes, 2, 90, generator)) / len(probes)


def run(seed: int, args: argparse.Namespace, settings: TrainerSettings) -> tuple[float, float, float, float]:
    """One taste: approval of the base and of the last policy, and knowledge lost."""
    backbone = Backbone(args.model, settings.rl)
    people = crowd(seed, 20)
    judge = next(person for person in people if not person.contrarian)
    ballots = Ballots(len(people))
    generator = torch.Generator().manual_seed(1000 * seed)
    probes = [knowledge.Probe(p.prompt, p.accept or ()) for p in world_probes(args.probes)]
    before, _ = approval(backbone, judge, 400, seed)
    known = known_share(backbone, probes, torch.Generator().manual_seed(1))
    print(f"seed {seed}: {judge.taste}; base approval {before:.3f}, knowledge {known:.3f}", flush=True)
    asked: list[list[int]] = []
    older = newer = backbone.snapshot()
    batches = args.votes // args.round_votes
    for number in range(1, batches + 1):
        backbone.restore(older)
        asked = vote(backbone, ballots, people, args.round_votes, 100 * seed + number) + asked
        backbone.restore(newer)
        wall, cpu = time.monotonic(), time.process_time()
        pool = [prompt for prompt in asked[:64] for _ in range(4)]
        with backbone.reference():
            replies = sample(backbone, asked[:64], 4, settings.rl.max_tokens, generator)
        base = measure(backbone, pool, [reply.token_ids for reply in replies]).views
        prepared = time.process_time() - cpu
        if not ballots.votes.says_something():
            continue
        model = reward_model.fit(ballots.views, ballots.votes, base, 4, settings.reward, generator)
        fitted = time.process_time() - cpu - prepared
        sampler = in_process(backbone, settings.rl.replies, settings.rl.max_tokens, generator)
        objective = on_samples(settings.rl)
        assert objective is not None, "it learns by the reward model"
        result = improve(backbone, asked, model.reward, settings.rl, generator, objective, sampler)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        older, newer = newer, backbone.snapshot()
        last = result.steps[-1]
        knows = known_share(backbone, probes[:128], generator)
        liked, axes = approval(backbone, judge, 200, seed)
        print(
            f"  {number * args.round_votes:4d} votes: approval {liked:.3f} ({axes})"
            f"  reward {result.steps[0].reward:+.2f}→{last.reward:+.2f}  KL {last.kl:.3f}"
            f"  length {last.length:.0f}  knowledge {knows:.3f}  cpu {cpu:.0f} s"
            f" (base {prepared:.1f}, fit {fitted:.1f}), wall {wall:.0f} s  {result.stopped or ''}",
            flush=True,
        )
    after, _ = approval(backbone, judge, 400, seed)
    knows = known_share(backbone, probes, torch.Generator().manual_seed(1))
    way = (after - before) / (1 - before)
    print(
        f"seed {seed}: {before:.3f} → {after:.3f} ({way:.0%} of the way), knowledge {known:.3f} → {knows:.3f}"
    )
    return before, after, way, knows - known


def world_probes(count: int):  # type: ignore[no-untyped-def]
    from trainer.starter.world import probes

    return probes(count, 77)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--votes", type=int, default=600)
    parser.add_argument("--round-votes", type=int, default=45)
    parser.add_argument("--probes", type=int, default=256)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--set", nargs="*", default=[], help="rl.steps=6 reward.caution=1 …")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainerSettings()
    for assignment in args.set:
        path, value = assignment.split("=")
        section, name = path.split(".")
        holder = getattr(settings, section)
        setattr(holder, name, type(getattr(holder, name))(float(value)))
    rows = [run(seed, args, settings) for seed in args.seeds]
    ways = sorted(row[2] for row in rows)
    print(f"way: least {ways[0]:.0%}, median {ways[len(ways) // 2]:.0%}; worst knowledge change "
          f"{min(row[3] for row in rows):+.3f}; peak memory "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
