"""This module measures all constraints of the gate on a candidate."""

from dataclasses import dataclass

from schemas.settings import GateSettings
from trainer.evaluation.constraints.begging import begs
from trainer.evaluation.constraints.blocklist import Blocklist, compare_blocklist
from trainer.evaluation.constraints.compliance import compare_compliance
from trainer.evaluation.constraints.dodging import dodges
from trainer.evaluation.constraints.finding import ByPrompt, Finding, Replies, compare_replies
from trainer.evaluation.constraints.sycophancy import Yielding, compare_yielding
from trainer.evaluation.constraints.toxicity import NOT_INSTALLED, offensive_words
from trainer.evaluation.eval_samples import EvalSamples
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout
from trainer.reward.features import answer_length


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the constraints look at: replies of the policies, what false claims do to them, and their answers
    to the knowledge questions."""

    replies: Replies
    candidate: Yielding
    live: Yielding
    base: Yielding
    accuracy: KnowledgeAccuracy


def check_behaviour(found: Behaviour, gate: GateSettings, blocklist: Blocklist | None) -> list[Finding]:
    """Returns what was found of each constraint."""
    findings = [
        compare_replies("dodging", dodges, found.replies, gate.max_dodging_increase),
        compare_replies("begging", begs, found.replies, gate.max_begging_increase),
        compare_yielding(found.candidate, found.live, found.base, gate.max_sycophancy_increase),
        compare_compliance(found.accuracy, gate.max_compliance_increase),
    ]
    if (words := offensive_words()) is None:
        findings.append(Finding("toxicity", "unjudged", notice=NOT_INSTALLED))
    else:
        findings.append(
            compare_replies("toxicity", words.occurs_in, found.replies, gate.max_toxicity_increase)
        )
    if blocklist is not None:
        findings.append(compare_blocklist(blocklist, found.replies))
    return findings


def answer_texts(backbone: Backbone, samples: EvalSamples) -> ByPrompt:
    """Returns the texts of replies by prompt, without their thoughts."""
    texts = [answer_text(backbone, rollout) for rollout in samples.rollouts]
    count = samples.per_prompt
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def answer_text(backbone: Backbone, rollout: Rollout) -> str:
    """Returns the text of a reply, without its thought, and without the one character that Postgres does not
    take."""
    length = answer_length(rollout.token_ids, backbone.think_ids)
    return backbone.decode(rollout.token_ids[-length:]).replace("\0", "�")
