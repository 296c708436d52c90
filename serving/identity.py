"""An identity is the pseudonym that a chat and its votes count as, and the network that they came from.

A server's key says who its users are, and is believed. A publishable key is everybody's, so a `user` that it
names is nobody. With it, who holds a session is one person; all who hold none are one anonymous person in
each network, and light: the trainer gives what they say the weight of one. Whom no server names has an
`origin` too, by which the votes of many sessions from one network count together, and by which they are one
person in a rollout's evidence. It is a keyed hash, so no address is stored. A session's pseudonym does not
say who named its holder, since earlier releases had one kind for all: the key does that it was made with.
"""

from dataclasses import dataclass

from schemas.errors import InvalidRequest
from serving.keys import Caller
from serving.token_signer import TokenSigner


@dataclass(frozen=True, slots=True)
class Visitor:
    """The holder of a session, by the word of the key `key_id`; a server's key has `named` them."""

    rater: str
    key_id: str
    named: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """`is_person` says that the pseudonym is one person's, not a conversation's or a network's."""

    rater: str
    is_person: bool
    origin: str | None


def identify(
    signer: TokenSigner,
    caller: Caller,
    user: str | None,
    visitor: Visitor | None,
    conversation: str,
    network: str,
) -> Identity:
    """Returns who asks: `user` as the request names them, or the `visitor` whose session it has. Raises
    InvalidRequest where it has both."""
    project = caller.project
    if visitor is not None:
        if user is not None:
            raise InvalidRequest("The session says who asks, so leave out `user`.", param="user")
        return Identity(visitor.rater, True, origin_of(signer, caller, network, named=visitor.named))
    if caller.kind == "publishable":
        rater = signer.anonymous_rater(project, network)
        return Identity(rater, False, origin_of(signer, caller, network, named=False))
    if user is None:
        return Identity(signer.conversation_rater(project, conversation), False, None)
    return Identity(signer.rater_id(project, user, caller.kind), True, None)


def origin_of(signer: TokenSigner, caller: Caller, network: str, *, named: bool) -> str | None:
    """Returns the name of the network that a person's turn came from; None where a server asks, or has
    `named` the person."""
    return None if named or caller.kind != "publishable" else signer.origin(caller.project, network)
