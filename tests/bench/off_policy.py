"""This bench measures how often the off-policy estimate of a candidate's approval contains the truth.

    python -m tests.bench.off_policy

Simulated people with one preference for each seed give thumbs on replies of the base, then of the policy of
each round before, one in ten on replies of the base; rounds of 100 votes follow each other without the gate.
After each round, the candidate's approval is estimated from the held-out votes as they were recorded, before
anybody has seen one of its replies, and compared with its true approval: the mean probability of a thumb up
over all people, on prompts that nobody sent. 5 preferences and 4 rounds are 20 candidates. Target: the 90%
interval contains the truth in at least 16. The estimate without the correction by votes is shown beside it.
About 12 minutes on one core.
"""

import argparse
import json
import random
import statistics
import sys

import torch

from deploy.simulation.people import Person, draw_people
from schemas import logs
from schemas.settings import TrainerSettings
from tests.bench import world_prompts
from tests.bench.no_knowledge import NoQuestions
from tests.bench.offline_learning import REPLY_TOKENS, PolicySamples, VoteHistory
from tests.bench.overrides import trainer_settings
from trainer.data.behaviour import Behaviour
from trainer.data.examples import Reply
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation import off_policy
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, sample_eval
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, in_process_sampler, sample
from trainer.round import run_round
from trainer.starter import MODEL_DIR

ROUND_VOTES, PEOPLE, JUDGED = 100, 40, 600
BASE_SHARE = 0.1


class Log:
    """What was recorded: votes, and the behaviour behind each."""

    def __init__(self, backbone: Backbone, people: list[Person]) -> None:
        self.history = VoteHistory()
        self.behaviour: dict[str, Behaviour] = {}
        self._backbone, self._people = backbone, people

    def vote(self, policy: str, share: float, count: int, seed: int) -> None:
        """Adds thumbs on replies of the current adapter."""
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        asked = world_prompts.traffic(count, seed)
        ids = [self._backbone.render([{"role": "user", "content": each.prompt}]) for each in asked]
        for rollout in sample(self._backbone, ids, SamplingSpec(1, REPLY_TOKENS), generator):
            turn, person = f"chatcmpl-{seed}-{rollout.prompt}", rng.choice(self._people)
            up = person.thumb(self._backbone.decode(rollout.token_ids), rng)
            event = f"e{len(self.history.examples)}"
            self.history.replies[turn, "0"] = Reply(ids[rollout.prompt], rollout.token_ids)
            self.history.add(turn, "thumb", {"value": "up" if up else "down"}, person.name, ((turn, "0"),))
            self.history.prompts = {turn: ids[rollout.prompt]} | self.history.prompts
            self.behaviour[event] = Behaviour(policy, share, 1.0, sum(rollout.logprobs))


def true_approval(backbone: Backbone, people: list[Person], seed: int) -> float:
    """Returns the mean probability of a thumb up over people and replies."""
    samples = PolicySamples.draw(backbone, JUDGED, seed)
    liked = samples.approval(next(person for person in people if not person.contrarian))
    return statistics.fmean(liked * _up(person, True) + (1 - liked) * _up(person, False) for person in people)


def _up(person: Person, likes: bool) -> float:
    bent = abs(person.leniency)
    up = (1 - bent) * (likes != person.contrarian) + bent * (person.leniency > 0)
    return up * (1 - person.noise) + (1 - up) * person.noise


def run(seed: int, rounds: int, settings: TrainerSettings) -> list[dict[str, float]]:
    """Returns the estimates of one preference's candidates, with the truth."""
    backbone, people = Backbone(MODEL_DIR, settings.rl), draw_people(seed, PEOPLE)
    log, cache = Log(backbone, people), FeatureCache(backbone)
    base = live = backbone.snapshot()
    name, found = "p0", []
    for number in range(1, rounds + 1):
        backbone.restore(base)
        log.vote("p0", BASE_SHARE, round(BASE_SHARE * ROUND_VOTES), 10_000 * seed + 2 * number)
        backbone.restore(live)
        log.vote(name, 1 - BASE_SHARE, round((1 - BASE_SHARE) * ROUND_VOTES), 10_000 * seed + 2 * number + 1)
        data = log.history.round_data(backbone, settings, 1000 * seed + number)
        spec = data.spec(SAMPLES_PER_PROMPT)
        logprobs = {name: off_policy.reply_logprobs(backbone, data)}
        before = sample_eval(backbone, data.eval_prompts, spec, data.generator("live"))
        sampler = in_process_sampler(
            backbone, data.spec(data.rl.samples_per_prompt), data.generator("rollouts")
        )
        result = run_round(data, cache, NoQuestions(), sampler)
        log.history.learning_rate = result.optimized.learning_rate
        logprobs[off_policy.CANDIDATE] = off_policy.reply_logprobs(backbone, data)
        candidate = sample_eval(backbone, data.eval_prompts, spec, data.generator("candidate"))
        voted = off_policy.voted_replies(data, cache, log.behaviour, logprobs, name)
        assert voted is not None
        people_of = off_policy.people_of(data)
        estimate = off_policy.estimate_approval(result.model, people_of, voted, candidate, before)
        direct = off_policy.direct_approval(result.model, people_of, candidate)
        truth, was = true_approval(backbone, people, seed), found[-1]["truth"] if found else None
        lower, upper = estimate.interval
        figures = {
            "seed": seed, "votes": number * ROUND_VOTES, "truth": truth, "estimate": estimate.candidate.value,
            "lower": lower, "upper": upper, "inside": float(lower <= truth <= upper), "direct": direct,
            "coverage": estimate.coverage, "change": estimate.change.value,
            "change_error": estimate.change.error, "voted": float(estimate.votes),
        }  # fmt: skip
        found.append(figures)
        change = "" if was is None else f", truly {truth - was:+.2f}"
        print(
            f"{seed}, {number * ROUND_VOTES} votes: true {truth:.2f}, estimate {figures['estimate']:.2f}"
            f" ({lower:.2f} to {upper:.2f}), without votes {direct:.2f}, coverage {estimate.coverage:.2f},"
            f" change {estimate.change}{change}{'' if figures['inside'] else '  outside'}",
            flush=True,
        )
        live, name = backbone.snapshot(), f"p{number}"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3201, 3202, 3203, 3204, 3205])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=["rl.prompts_per_step=16"])
    arguments = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    settings = trainer_settings(arguments.set)
    found = [each for seed in arguments.seeds for each in run(seed, arguments.rounds, settings)]
    inside = sum(each["inside"] for each in found)
    width = statistics.median(each["upper"] - each["lower"] for each in found)
    errors = [
        statistics.fmean(abs(each[name] - each["truth"]) for each in found) for name in ("estimate", "direct")
    ]
    print(f"{inside:.0f} of {len(found)} intervals contain the truth; median width {width:.2f}")
    print(f"mean absolute error {errors[0]:.3f}, of the reward model alone {errors[1]:.3f}")
    print(json.dumps(found))
    return 0 if inside >= 0.8 * len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
