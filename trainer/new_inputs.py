"""The inputs of a new round are named before it begins, so that it can be run again: all that it learns from,
and its hyperparameters."""

from schemas.database import Pool
from schemas.policies import round_of
from schemas.projects import Objective
from trainer.data import cautions, demonstrations, examples, mentions, prompts, untokenized_turns
from trainer.data.ingest import consumer_offsets
from trainer.data.round_inputs import RoundInputs
from trainer.data.traffic import Traffic
from trainer.learner import Learner
from trainer.records import record
from trainer.records.record import RoundRecord

ROUNDS_OF_A_FOLD = 10
"""One fold of the votes is held out by the rounds from a live policy of so many rounds in a row."""


def served(pool: Pool, project: str) -> tuple[Traffic, float | None]:
    """Returns what hyperparameters are derived from: how people are served, and the learning rate that the
    last round found."""
    new = examples.count_votes(pool, project) - record.votes_at_last_round(pool, project)
    return Traffic.read(pool, project, new), record.last_learning_rate(pool, project)


def objective(pool: Pool, project: str) -> Objective:
    """Returns what a project itself says that its policies learn."""
    with pool.connection() as connection:
        row = connection.execute(
            "select learning - 'tainted_policy' as objective from projects where id = %s", [project]
        ).fetchone()
    return Objective.model_validate(row["objective"]) if row else Objective()  # it may be removed by now


def new_inputs(
    pool: Pool, learner: Learner, number: int, live: str, found: RoundRecord, summary: str | None
) -> RoundInputs:
    """Returns the inputs of round `number` from what there is now, while the policy `live` answers, and says
    in its record what was derived; `summary` is the digest of the vote summary."""
    project = learner.settings.project
    derivation = learner.derive(*served(pool, project))
    found.hyperparameters, rl = derivation.as_json(), derivation.hyperparameters()
    if found.restart:
        rl = derivation.of_a_restart()
        why = {"value": rl.steps_per_round, "reason": "the round starts from the base again"}
        found.hyperparameters["steps_per_round"] = why
    careful = cautions.levels(record.blocked(pool, project, cautions.RECALL))
    rl = cautions.cautious(rl, careful, found.hyperparameters)
    longest = learner.longest_prompt(rl.max_tokens)
    untokenized_turns.tokenize(pool, project, learner.backbone)
    selected = prompts.select_turns(pool, project, number, longest)
    events = examples.active_events(pool, project, learner.token_budget.row)
    mentioned = mentions.load(pool, project, events)
    found.criteria_ignored = mentioned.ignored
    return RoundInputs(
        draw=number,
        fold=round_of(live) // ROUNDS_OF_A_FOLD,
        parent=found.parent,
        votes=examples.count_votes(pool, project),
        positions=consumer_offsets(pool),
        events=events,
        turns=selected.turns,
        knowledge_lost=record.knowledge_lost(pool, project),
        vote_summary=summary,
        token_budget=learner.token_budget,
        prompts_too_long=selected.too_long,
        probes=learner.knowledge.probe_set,
        rl=rl,
        objective=objective(pool, project),
        mentions=mentioned.by_event,
        trusted=examples.trusted_events(pool, project, events),
        lora_tokens=learner.lora_tokens,
        restart=bool(found.restart),
        cautions=careful,
        demonstrations=demonstrations.select(
            pool, project, found.parent, learner.longest_row, learner.supervised_tokens
        ),
        demonstrated=demonstrations.have_taught(pool, project, found.parent),
    )
