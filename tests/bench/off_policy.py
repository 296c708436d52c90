"""This bench measures how often the off-policy estimate of a candidate's approval contains the truth.

    python -m tests.bench.off_policy

Simulated people with one preference for each seed give thumbs on replies of the base, then of the policy of
the round before, one in ten on replies of the base. After 150 and after 300 votes a round trains, without the
gate. Its candidate, and the policy halfway there, are estimated from the held-out votes as they were
recorded, before anybody has seen one of their replies. The truth is the mean probability of a thumb up over
all people, on prompts that nobody sent. 5 preferences are 20 candidates. Target: the 90% interval contains
the truth in at least 16. The estimate without the correction by votes is shown beside it. About 8 minutes on
one core.
"""

import argparse
import json
import random
import statistics
import sys

import torch

from deploy.simulation.people import Person, draw_people
from schemas import logs
from schemas.generation_defaults import GenerationDefaults
from schemas.settings import TrainerSettings
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.no_knowledge import NoQuestions
from tests.bench.offline_learning import REPLY_TOKENS, PolicySamples, VoteHistory
from tests.bench.overrides import trainer_settings
from trainer.data.behaviour import Behaviour
from trainer.data.examples import Reply
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation import off_policy
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, sample_eval
from trainer.evaluation.off_policy import Approval
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler, sample
from trainer.round import run_round
from trainer.starter import MODEL_DIR

ROUNDS, ROUND_VOTES, PEOPLE, JUDGED = 2, 150, 40, 600
BASE_SHARE = 0.1

NEUTRAL = GenerationDefaults().model_dump()
"""The parameters that the starter is served at."""


class Log:
    """What was recorded: votes, and the behaviour behind each."""

    def __init__(self, backbone: Backbone, people: list[Person]) -> None:
        self.history = VoteHistory()
        self.behaviour: dict[str, Behaviour] = {}
        self.sent: list[str] = []
        self._backbone, self._people = backbone, people

    def vote(self, policy: str, share: float, count: int, seed: int) -> None:
        """Adds thumbs on replies of the current adapter."""
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        asked = world_prompts.traffic(count, seed)
        self.sent += [each.prompt for each in asked]
        ids = [self._backbone.render([{"role": "user", "content": each.prompt}]) for each in asked]
        for rollout in sample(self._backbone, ids, SamplingSpec(1, REPLY_TOKENS), generator):
            turn, person = f"chatcmpl-{seed}-{rollout.prompt}", rng.choice(self._people)
            up = person.thumb(self._backbone.decode(rollout.token_ids), rng)
            event = f"e{len(self.history.examples)}"
            self.history.replies[turn, "0"] = Reply(ids[rollout.prompt], rollout.token_ids)
            self.history.add(turn, "thumb", {"value": "up" if up else "down"}, person.name, ((turn, "0"),))
            self.history.prompts = {turn: ids[rollout.prompt]} | self.history.prompts
            self.behaviour[event] = Behaviour(policy, share, NEUTRAL, sum(rollout.logprobs))


def true_approval(backbone: Backbone, people: list[Person], seed: int) -> float:
    """Returns the mean probability of a thumb up over people and replies."""
    samples = PolicySamples.draw(backbone, JUDGED, seed)
    liked = samples.approval(next(person for person in people if not person.contrarian))
    return liked * up_probability(people, True) + (1 - liked) * up_probability(people, False)


def up_probability(people: list[Person], likes: bool) -> float:
    """Returns the mean probability of a thumb up for a reply that they like, or one that they do not."""
    found = []
    for person in people:
        bent = abs(person.leniency)
        up = (1 - bent) * (likes != person.contrarian) + bent * (person.leniency > 0)
        found.append(up * (1 - person.noise) + (1 - up) * person.noise)
    return statistics.fmean(found)


def run(seed: int, settings: TrainerSettings) -> list[dict[str, float]]:
    """Returns the estimates of one preference's candidates, with the truth."""
    backbone, people = Backbone(MODEL_DIR, settings.rl), draw_people(seed, PEOPLE)
    log, cache = Log(backbone, people), FeatureCache(backbone)
    base = live = backbone.snapshot()
    name, found = "p0", []
    for number in range(1, ROUNDS + 1):
        backbone.restore(base)
        log.vote("p0", BASE_SHARE, round(BASE_SHARE * ROUND_VOTES), 10_000 * seed + 2 * number)
        backbone.restore(live)
        log.vote(name, 1 - BASE_SHARE, round((1 - BASE_SHARE) * ROUND_VOTES), 10_000 * seed + 2 * number + 1)
        data = log.history.round_data(backbone, settings, 1000 * seed + number)
        spec = data.spec(SAMPLES_PER_PROMPT)
        own = {name: off_policy.reply_logprobs(backbone, data)}
        before = sample_eval(backbone, data.eval_prompts, spec, data.generator("live"))
        sampler = adapter_sampler(backbone, data.spec(data.rl.samples_per_prompt), data.generator("rollouts"))
        halfway: list[list[torch.Tensor]] = []

        def report(phase: str, step: int, steps: int, halfway: list[list[torch.Tensor]] = halfway) -> None:
            if phase == "optimizing" and step == steps // 2:
                halfway.append(backbone.snapshot())

        result = run_round(data, cache, NoQuestions(), sampler, report=report)
        log.history.learning_rate = result.optimized.learning_rate
        people_of = off_policy.people_of(data)
        for candidate in (*halfway, backbone.snapshot()):
            backbone.restore(candidate)
            logprobs = own | {off_policy.CANDIDATE: off_policy.reply_logprobs(backbone, data)}
            samples = sample_eval(backbone, data.eval_prompts, spec, data.generator("candidate"))
            voted = off_policy.voted_replies(data, cache, log.behaviour, logprobs, name)
            assert voted is not None
            estimate = off_policy.estimate_approval(result.model, people_of, voted, samples, before)
            direct = off_policy.direct_approval(result.model, people_of, samples)
            found.append(described(seed, number, estimate, direct, true_approval(backbone, people, seed)))
        live, name = backbone.snapshot(), f"p{number}"
    judged = world_prompts.judgment(JUDGED, 10_000 + seed)
    assert_disjoint(sent=log.sent, judged=[each.prompt for each in judged])
    return found


def described(seed: int, number: int, estimate: Approval, direct: float, truth: float) -> dict[str, float]:
    """Returns the figures of a candidate, and prints them."""
    lower, upper = estimate.interval
    inside = lower <= truth <= upper
    print(
        f"{seed}, {number * ROUND_VOTES} votes: true {truth:.2f}, estimate {estimate.candidate.value:.2f}"
        f" ({lower:.2f} to {upper:.2f}), without votes {direct:.2f}, coverage {estimate.coverage:.2f},"
        f" change {estimate.change}{'' if inside else '  outside'}",
        flush=True,
    )
    return {
        "seed": seed, "votes": number * ROUND_VOTES, "truth": truth, "estimate": estimate.candidate.value,
        "lower": lower, "upper": upper, "inside": float(inside), "direct": direct,
        "coverage": estimate.coverage, "held_out": float(estimate.votes),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3201, 3202, 3203, 3204, 3205])
    parser.add_argument("--set", nargs="*", default=["rl.prompts_per_step=8"])
    arguments = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    settings = trainer_settings(arguments.set)
    found = [each for seed in arguments.seeds for each in run(seed, settings)]
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
