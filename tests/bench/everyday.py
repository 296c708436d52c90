"""This bench measures how well a real base learns hidden tastes from 200 votes on everyday prompts.

    python -m tests.bench.everyday --model DIR --seeds 1 2 3

Simulated people (`voters`) with one hidden taste (`tastes`; the seed draws it, or `--taste` names it) send
everyday prompts that nobody wrote for the starter, for replies of at most 256 tokens at the base's own
settings, and vote; one verdict in ten is wrong. The trainer's own loop reads the votes from Postgres and
starts rounds when they are due; a policy that passes the gate answers at once, and one that it could not
judge is a canary. Time is the service's: rounds take what they take, votes arrive evenly over the first three
quarters of `--minutes`, sampling people's replies costs nothing, since it is the engine's work, and waiting
is skipped. Who votes while a round trains votes on the policies before it.

The figure is the way from the base's approval to the best of 16 of its replies, on held-out prompts. Targets
over seeds: 0.5 in the median and 0.25 in each; 70% of all rounds published or taken to a canary; at most 3
points of knowledge lost; a length within 15% of the base's where the taste does not ask for another.
`--base-only` prints how each taste likes the base, and stops. `--opponent trl` has TRL learn from as many
votes in as many rounds (`everyday_trl`). Each seed prints a line of JSON; the last line has all figures.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from deploy.local.base_model import base_directory
from deploy.local.postgres import database
from schemas import logs
from schemas.database import migrate, open_pool
from schemas.settings import Settings, TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_clock import learn
from tests.bench.everyday_outcome import Outcome, Policies, outcome, targets_reached
from tests.bench.everyday_prompts import HELD_OUT, SPARE, TRAFFIC
from tests.bench.everyday_service import Service
from tests.bench.everyday_tastes import choose, print_table
from tests.bench.judgment import judge_base
from tests.bench.overrides import trainer_settings
from tests.bench.served_replies import CACHE, BaseReplies, ServedAt
from tests.bench.tastes import tastes
from tests.bench.voters import Voters
from tests.training import add_key
from trainer.evaluation.knowledge import accuracy_drop
from trainer.evaluation.questions import own_questions, shipped_questions
from trainer.model.backbone import Backbone
from trainer.model.device import with_threads


def run(seed: int, args: argparse.Namespace, settings: Settings, served_at: ServedAt) -> Outcome:
    """Returns the figures of one seed on a fresh project."""
    with tempfile.TemporaryDirectory(prefix="hearken-everyday-") as folder:
        settings = settings.model_copy(update={"data_dir": Path(folder)})
        share_probes(Path(folder))
        with database(settings) as url, open_pool(url) as pool:
            migrate(url)
            add_key(pool)
            service = Service(settings.model_copy(update={"database_url": url}), pool)
            try:
                return judged_run(seed, args, service, served_at)
            finally:
                service.trainer.election.release()
                service.trainer.reader.votes.close()


def share_probes(data_dir: Path) -> None:
    """Lets all runs have the base's knowledge probes, which take minutes to measure."""
    kept = CACHE / "knowledge"
    kept.mkdir(parents=True, exist_ok=True)
    (data_dir / "knowledge").symlink_to(kept)


def judged_run(seed: int, args: argparse.Namespace, service: Service, served_at: ServedAt) -> Outcome:
    backbone = service.learner.backbone
    taste = choose(backbone, served_at, seed, args.taste)
    judged = HELD_OUT[: args.judged]
    base = judge_base(backbone, BaseReplies(backbone, served_at), judged, taste)
    print(f"seed {seed}: {taste.name}; base {base.approval:.3f}, best {base.best:.3f}", file=sys.stderr)
    voters = Voters(backbone, served_at, TRAFFIC, taste, seed)
    rounds = learn(service, voters, args.votes, args.minutes)
    route = service.route()
    newest = live = service.judge(route.live, served_at, judged, taste)
    lost = knowledge_lost(service)
    if route.canary is not None:
        newest = service.judge(route.canary, served_at, judged, taste)
    return outcome(seed, taste, base, Policies(live, newest), rounds, lost)


def knowledge_lost(service: Service) -> float | None:
    """Returns the accuracy that the current adapter lost on the trainer's knowledge questions; None without
    questions."""
    knowledge = service.learner.knowledge
    if knowledge.unjudged:
        return None
    generator = torch.Generator().manual_seed(1)
    return accuracy_drop(knowledge.base_accuracy(), knowledge.adapter_accuracy(generator))[0]


def check_prompts(directory: Path, trainer: TrainerSettings) -> None:
    """Raises AssertionError when two of the sets share a prompt."""
    questions = [*own_questions(directory, trainer.gate, trainer.seed), *shipped_questions()]
    assert_disjoint(
        traffic=TRAFFIC, spare=SPARE, held_out=HELD_OUT, knowledge=[each.prompt for each in questions]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter", help="base: `starter`, a directory or a hub id")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--taste", choices=sorted(tastes(["."])), help="none: each seed draws one")
    parser.add_argument("--votes", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--judged", type=int, default=len(HELD_OUT), help="held-out prompts, at least 1")
    parser.add_argument("--temperature", type=float, help="none: the base's own default")
    parser.add_argument("--top-p", type=float, help="none: the base's own default")
    parser.add_argument("--base-only", action="store_true")
    parser.add_argument("--opponent", choices=["trl"])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the opponent")
    parser.add_argument("--set", nargs="*", default=[], help="rl.steps_per_round=6 gate.folds=4 …")
    args = parser.parse_args()
    logs.configure("warning")
    directory = base_directory(args.model)
    trainer = with_threads(trainer_settings(args.set), directory)
    settings = Settings(model=str(directory), trainer=trainer)
    check_prompts(directory, settings.trainer)
    served_at = ServedAt.by_default(directory)
    named = {"temperature": args.temperature, "top_p": args.top_p}
    served_at = replace(served_at, **{name: value for name, value in named.items() if value is not None})
    if args.base_only:
        torch.set_num_threads(settings.trainer.threads or 1)
        print_table(Backbone(directory, settings.trainer.rl), served_at)
        return 0
    found: list[Any] = []
    for seed in args.seeds:
        if args.opponent == "trl":
            from tests.bench import everyday_trl

            found.append(everyday_trl.run(seed, args, settings, served_at))
        else:
            found.append(run(seed, args, settings, served_at))
        print(json.dumps(asdict(found[-1])), flush=True)
    gains = [each.share_of_achievable_gain for each in found]
    print(f"share of the achievable gain: median {statistics.median(gains):.2f}, least {min(gains):.2f}")
    print(json.dumps([asdict(each) for each in found]))
    return 0 if args.opponent or targets_reached(found) else 1


if __name__ == "__main__":
    sys.exit(main())
