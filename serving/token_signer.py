"""The token signer computes HMAC-SHA-256 tags under the installation's secret: feedback tokens and session
tokens, which can be verified without the database, and pseudonyms of end users."""

import base64
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass

from schemas.feedback import ANONYMOUS, NAMED, VISITOR
from schemas.keys import Kind

_PSEUDONYM = re.compile(f"({NAMED}|{VISITOR}|{ANONYMOUS})[0-9a-f]{{32}}")
_SESSION = "hs_"
_MAX_SESSION = 1_024  # characters
_LABELS: dict[Kind, str] = {"admin": "rater", "secret": "rater", "publishable": "claimed"}


@dataclass(frozen=True, slots=True)
class Session:
    """What a session token says: its holder is `rater` in `project` until `expires` (Unix time), by the word
    of the key `key_id`."""

    project: str
    rater: str
    key_id: str
    expires: int


class TokenSigner:
    """Signs and verifies with HMAC-SHA-256 (RFC 2104) under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def feedback_token(self, completion_id: str) -> str:
        """Returns the token that allows voting on this completion and on nothing else."""
        return base64.urlsafe_b64encode(self._mac("feedback", completion_id)[:24]).decode()

    def verify(self, completion_id: str, token: str) -> bool:
        """Returns whether `token` is this completion's feedback token; the comparison takes constant time."""
        return hmac.compare_digest(self.feedback_token(completion_id).encode(), token.encode())

    def rater_id(self, project: str, user: str, kind: Kind) -> str:
        """Returns the pseudonym under which a person's votes are stored; it does not reveal the name.

        A `user` whom a publishable key names is believed no more (`serving.identity`), and was never the
        person whom another key names. A `user` therefore has at most two pseudonyms, and both follow from
        the name.
        """
        return NAMED + self._mac(_LABELS[kind], project, user).hex()[:32]

    def conversation_rater(self, project: str, conversation: str) -> str:
        """Returns the pseudonym of somebody who is known by a conversation only; no `user` has it."""
        return NAMED + self._mac("rater conversation", project, conversation).hex()[:32]

    def visitor_id(self, project: str) -> str:
        """Returns the pseudonym of somebody who has not been here before."""
        return VISITOR + self._mac("visitor", project, secrets.token_hex(16)).hex()[:32]

    def anonymous_rater(self, project: str, network: str) -> str:
        """Returns the pseudonym of all in a network who are known by nothing else."""
        return ANONYMOUS + self._mac("anonymous", project, network).hex()[:32]

    def origin(self, project: str, network: str) -> str:
        """Returns the name of a network, from which it cannot be found."""
        return self._mac("network", project, network).hex()[:32]

    def session_token(self, session: Session) -> str:
        """Returns a token that only this installation can make, and `read_session` reads."""
        fields = [session.project, session.rater, session.key_id, session.expires]
        said = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
        return f"{_SESSION}{said}.{self._mac('session', said)[:24].hex()}"

    def read_session(self, token: str) -> Session | None:
        """Returns what the token says, or None where this installation did not make it."""
        said, _, tag = token.removeprefix(_SESSION).partition(".")
        made = self._mac("session", said)[:24].hex()
        if len(token) > _MAX_SESSION or not hmac.compare_digest(made.encode(), tag.encode()):
            return None
        return Session(*json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4))))

    def pseudonyms(self, project: str, user: str) -> list[str]:
        """Returns the pseudonyms of a user's name, or `user` itself where it is a pseudonym already."""
        if _PSEUDONYM.fullmatch(user):
            return [user]
        kinds: tuple[Kind, ...] = ("secret", "publishable")
        return [self.rater_id(project, user, kind) for kind in kinds]

    def _mac(self, *parts: str) -> bytes:
        return hmac.digest(self._secret, "\0".join(parts).encode(), hashlib.sha256)
