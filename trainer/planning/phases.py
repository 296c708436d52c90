"""The phases of a round are what it runs the model for: so many batches of each kind of work."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.settings import TrainerSettings
from trainer.data.demonstrations import HELD_OUT, MAX_DEMONSTRATIONS, MOST_HELD_OUT
from trainer.data.hyperparameters import BASE_SAMPLES, Hyperparameters
from trainer.evaluation import eval_samples, knowledge, off_policy, screening
from trainer.evaluation.constraints.sycophancy import MAX_QUESTIONS, shipped_claims
from trainer.evaluation.questions import Question, is_starter, own_questions, shipped_questions
from trainer.model.speed import Speed
from trainer.planning.batches import Batches, Work
from trainer.planning.fake_model import FakeBackbone
from trainer.rl import supervised
from trainer.rl.guard import CHECK_INTERVAL
from trainer.rl.objectives import policy_objective
from trainer.rl.training_objective import BASE_SAMPLES_SHARE


@dataclass(frozen=True, slots=True)
class Asked:
    """The knowledge questions of a base: the starter's or the operator's `own`, as many `probes` as another
    base may have, and of each the longest prompt in tokens."""

    own: Sequence[Question]
    own_prompt: int
    probes: int
    probe_prompt: int
    probe_reply: int

    @classmethod
    def of(cls, settings: TrainerSettings, backbone: FakeBackbone) -> "Asked":
        own = own_questions(backbone.directory, settings.gate, settings.seed)
        room = settings.gate.knowledge_questions - len(own)
        probes = 0 if is_starter(backbone.directory) else min(screening.MAX_PROBES, room)
        longest = (_longest(backbone, each) for each in (own, shipped_questions() if probes else ()))
        return cls(own, next(longest), probes, next(longest), screening.reply_tokens(backbone))


def replies_trained_on(rl: Hyperparameters) -> int:
    """Rows with gradient in one step: the step's samples, the replayed ones and SFT's."""
    sampled = policy_objective(rl) is not None
    of_prompt = rl.samples_per_prompt if sampled and rl.algorithm != "online_dpo" else 2
    rows = (2 if sampled else 1) * rl.prompts_per_step * of_prompt
    base_samples = round(BASE_SAMPLES_SHARE * rl.prompts_per_step * rl.samples_per_prompt)
    return rows + (base_samples if sampled and rl.base_sft_coef else 0)


def phases_of(
    settings: TrainerSettings, rl: Hyperparameters, backbone: FakeBackbone, batches: Batches, length: int,
    asked: Asked,
) -> dict[str, Work]:  # fmt: skip
    """Returns the phases of every round, with prompts of `length` tokens."""
    replies = rl.prompts_per_step * rl.samples_per_prompt
    judged = min(settings.round_votes, max(1, off_policy.MAX_TOKENS // (length + rl.max_tokens)))
    return {
        "sampling": batches.sample(length, rl.prompts_per_step, rl.samples_per_prompt).scaled(
            rl.steps_per_round
        ),
        "reference pass": batches.scored_samples(length, replies)
        .scaled(rl.steps_per_round)
        .then(batches.scored_samples(length, BASE_SAMPLES * rl.base_prompts)),
        "training": batches.train(length, replies_trained_on(rl)).scaled(rl.steps_per_round),
        "trust region": batches.trust_region(length, replies).scaled(rl.steps_per_round),
        "evaluation samples": batches.evaluate(
            length, settings.gate.eval_prompts, eval_samples.SAMPLES_PER_PROMPT
        )
        .scaled(2)
        .then(batches.evaluate(length, rl.base_prompts, BASE_SAMPLES)),
        "new votes": batches.reference_pass(length, 1).scaled(settings.round_votes),
        "held-out votes": batches.reference_pass(length, judged).scaled(3),  # of live, base, candidate
        "false claims": false_claims(backbone, batches),
        "knowledge questions": knowledge_questions(settings, rl, backbone, batches, asked),
    }


def supervised_stage(
    settings: TrainerSettings, rl: Hyperparameters, batches: Batches, length: int, asked: Asked, speed: Speed
) -> Work:
    """The supervised stage of as many demonstrations as a round has time for, in all its epochs."""
    tokens = settings.max_round_seconds * speed.training / supervised.MAX_EPOCHS
    rows = max(1, min(MAX_DEMONSTRATIONS, int(tokens // (length + rl.max_tokens))))
    steps = supervised.MAX_EPOCHS * -(-rows // supervised.BATCH_SIZE)
    replies = rl.prompts_per_step * rl.samples_per_prompt
    check = (
        batches.sample(length, rl.prompts_per_step, rl.samples_per_prompt)
        .then(batches.scored_samples(length, replies))
        .then(batches.reference_pass(length, max(1, min(MOST_HELD_OUT, rows // HELD_OUT))))
        .then(_guard_check(batches, asked))
    )
    return (
        batches.train(length, rows * supervised.MAX_EPOCHS)
        .then(batches.trust_region(length, replies).scaled(steps))
        .then(check.scaled(1 + min(supervised.MAX_CHECKS, -(-steps // CHECK_INTERVAL))))
    )


def _guard_check(batches: Batches, asked: Asked) -> Work:
    """The knowledge questions that the guard asks at a time."""
    own = min(knowledge.GUARD_QUESTIONS, len(asked.own))
    work = batches.sample(asked.own_prompt, own, 1) if own else Work()
    if probes := min(knowledge.GUARD_QUESTIONS - own, asked.probes):
        work = work.then(batches.sample(asked.probe_prompt, probes, 1, asked.probe_reply))
    return work


def knowledge_questions(
    settings: TrainerSettings, rl: Hyperparameters, backbone: FakeBackbone, batches: Batches, asked: Asked
) -> Work:
    """The knowledge questions, and the replies that the record shows side by side."""
    work = _guard_check(batches, asked).scaled(rl.steps_per_round // CHECK_INTERVAL)
    if own := len(asked.own):
        twice = batches.sample(asked.own_prompt, own, knowledge.SAMPLES_PER_QUESTION).scaled(2)
        once = batches.sample(asked.own_prompt, own, knowledge.BASE_SAMPLES_PER_QUESTION)
        work = work.then(twice).then(once)
    if asked.probes:
        samples = knowledge.SAMPLES_PER_PROBE
        probed = batches.sample(asked.probe_prompt, asked.probes, samples, asked.probe_reply)
        work = work.then(probed.scaled(2 * knowledge.MAX_TIMES))
    shown = asked.own[: knowledge.SHOWN_SAMPLES] or [Question(each, ()) for each in knowledge.SAMPLE_PROMPTS]
    tokens = settings.rl.max_tokens or knowledge.ANSWER_TOKENS
    return work.then(batches.sample(_longest(backbone, shown), len(shown), 1, tokens).scaled(2))


def false_claims(backbone: FakeBackbone, batches: Batches) -> Work:
    """The questions behind false claims, of which two answers each are scored, by two policies."""
    asked = [
        (Question(each.asserted(row), ()), each.statement.format(each.right))
        for row, each in enumerate(shipped_claims())
    ]
    reply = max(len(backbone.encode_reply(answer)) for _, answer in asked)
    longest = _longest(backbone, [question for question, _ in asked])
    return batches.reference_pass(longest, 2 * MAX_QUESTIONS, reply).scaled(4)


def _longest(backbone: FakeBackbone, questions: Sequence[Question]) -> int:
    """The longest prompt of these questions, tokens; 0 without any."""
    rendered = (backbone.render([{"role": "user", "content": each.prompt}]) for each in questions)
    return max(map(len, rendered), default=0)
