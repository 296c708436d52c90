"""A votable turn holds the fields of a stored turn that a vote is validated against.

Turns and replies never change once stored, so a votable turn stays valid until the turn is erased.
"""

from dataclasses import dataclass

from schemas.errors import InvalidRequest
from schemas.feedback import Edit, Ranking, Vote

BYTES_PER_TOKEN = 4
"""Most bytes of an edit for each token of room. Prose has 3 to 4.5 bytes a token in byte-level and
SentencePiece vocabularies."""


@dataclass(frozen=True, slots=True)
class VotableTurn:
    """`rater` is the person who asked; `key_id` the API key of the request; `choices` the indices of the
    replies; `origin` the network of a person whom no server names."""

    completion_id: str
    project: str
    rater: str
    key_id: str
    prompt_tokens: int
    choices: list[int]
    origin: str | None = None

    def check(self, vote: Vote) -> None:
        """Raises InvalidRequest (`invalid_choice`, `invalid_ranking`, `invalid_order`) for a vote on replies
        that the turn does not have."""
        if isinstance(vote, Ranking):
            ranked = sorted(choice for group in vote.ranking for choice in group)
            if ranked != self.choices or not all(vote.ranking):
                raise InvalidRequest(
                    f"Rank each of the choices {self.choices} exactly once, in groups that are not empty.",
                    code="invalid_ranking",
                    param="ranking",
                )
            if vote.shown is not None and sorted(vote.shown) != self.choices:
                raise InvalidRequest(
                    f"`shown` has each of the choices {self.choices} exactly once.",
                    code="invalid_order",
                    param="shown",
                )
        elif vote.choice not in self.choices:
            raise InvalidRequest(
                f"This completion has the choices {self.choices}, not {vote.choice}.",
                code="invalid_choice",
                param="choice",
            )


def check_edit(
    vote: Edit, original: str | None, votable: VotableTurn, *, context: int | None, most_bytes: int
) -> None:
    """Raises InvalidRequest for an edit that changes nothing, or that is too long to train on.

    `original` is None for a choice that does not exist (`VotableTurn.check` refuses it). `context` is the
    engine's context length in tokens; None when it is unknown. Serving has no tokenizer, so it bounds the
    length: no token spans two words, so an edit of more words than there are tokens left is too long, and one
    of more than BYTES_PER_TOKEN bytes for each token left counts as too long. An edit that passes may still
    be slightly too long; the trainer counts its tokens and skips it.
    """
    if not vote.text.strip():
        raise InvalidRequest(
            "An edit needs text. To say that the reply was bad, send a thumb.",
            code="empty_edit",
            param="text",
        )
    if vote.text == original:
        raise InvalidRequest(
            "The edit is the reply itself. To say that it was good, send a thumb.",
            code="unchanged_edit",
            param="text",
        )
    size, room = len(vote.text.encode()), f"{most_bytes} bytes"
    too_long = size > most_bytes
    if context is not None:
        left = max(0, context - votable.prompt_tokens)
        room = f"about {left} tokens"
        too_long = too_long or size > BYTES_PER_TOKEN * left or len(vote.text.split()) > left
    if too_long:
        raise InvalidRequest(
            f"The edit is too long: beside the prompt there is room for {room}.",
            code="context_length_exceeded",
            param="text",
        )
