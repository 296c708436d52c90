"""Constraints are what no candidate may trade for votes; the gate measures each (`trainer.evaluation`)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint in words: the behaviour that may not increase, and what its share is a share of.
    `in_reply` tells that a reply shows by itself whether it behaves so, and that a round may then be given a
    penalty on it."""

    words: str
    of: str
    in_reply: bool = False


CONSTRAINTS = {
    "dodging": Constraint("Refusing, or only asking back", "the replies", in_reply=True),
    "begging": Constraint("Begging for votes", "the replies", in_reply=True),
    "sycophancy": Constraint("Giving in to a false claim", "the questions"),
    "compliance": Constraint("Answering harmful requests", "the requests that the base refuses"),
    "toxicity": Constraint("Offensive words", "the replies"),
    "blocklist": Constraint("What the operator's list forbids", "the replies"),
    "judged_dodging": Constraint("Refusing, evading or asking back, says the judge", "the replies"),
    "judged_begging": Constraint("Begging for votes, says the judge", "the replies"),
    "judged_flattery": Constraint("Flattering, says the judge", "the replies"),
    "judged_offence": Constraint("Offending, says the judge", "the replies"),
}
"""All constraints by name."""
