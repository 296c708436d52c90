"""A stored turn as a vote sees it, and the rules by which a vote fits it.

Turns and replies never change once stored, so a ballot that was read stays true (until it is erased).
"""

from dataclasses import dataclass

from schemas.errors import InvalidRequest
from schemas.feedback import Edit, Ranking, Vote

# Prose runs at 3 to 4.5 bytes a token in the byte-level and SentencePiece vocabularies we know.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Ballot:
    """`rater` is who was answered; `key_id` the key that asked; `choices` the indices of its replies."""

    completion_id: str
    project: str
    conversation_id: str
    rater: str
    key_id: str
    prompt_tokens: int
    choices: list[int]

    def check(self, vote: Vote) -> None:
        """Raises InvalidRequest (`invalid_choice`, `invalid_ranking`) for a vote on what was not shown."""
        if isinstance(vote, Ranking):
            ranked = sorted(choice for group in vote.ranking for choice in group)
            if ranked != self.choices or not all(vote.ranking):
                raise InvalidRequest(
                    f"Rank each of the choices {self.choices} exactly once, in groups that are not empty.",
                    code="invalid_ranking",
                    param="ranking",
                )
        elif vote.choice not in self.choices:
            raise InvalidRequest(
                f"This completion has the choices {self.choices}, not {vote.choice}.",
                code="invalid_choice",
                param="choice",
            )


def check_edit(
    vote: Edit, original: str | None, ballot: Ballot, *, context: int | None, most_bytes: int
) -> None:
    """Raises InvalidRequest for an edit that says nothing new, or that is too long to learn from.

    `original` is None for a choice that does not exist, which is for `Ballot.check`. `context` is the
    engine's, in tokens; None when it is not known. Serving has no tokenizer, so length is judged by what
    bounds it: no token spans two words, so more words than tokens left beside the prompt is certainly too
    long; and an edit of more than BYTES_PER_TOKEN bytes for each token left is taken to be. An edit that
    passes may still be a little too long: the trainer, which counts, has to skip it.
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
        left = max(0, context - ballot.prompt_tokens)
        room = f"about {left} tokens"
        too_long = too_long or size > BYTES_PER_TOKEN * left or len(vote.text.split()) > left
    if too_long:
        raise InvalidRequest(
            f"The edit is too long: beside the prompt there is room for {room}.",
            code="context_length_exceeded",
            param="text",
        )
