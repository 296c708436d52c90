"""Load for fault injection: clients chat and vote, and two more probe whether the service answers.

A client sends one request at a time, and repeats it until it is answered, a vote with the same
Idempotency-Key, through the next replica each time. So its answers are one sequence, from which the expected
state of the system follows (`tests.audit`).
"""

import random
import threading
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from schemas.feedback import parse_vote
from schemas.settings import KafkaSettings
from tests.audit import Acknowledgement, ClientRecord, audit
from tests.auditor import Auditor
from tests.installation import ADMIN_KEY, Installation, wait

SHORT_WORDS = 18  # words
MAX_TURNS = 3  # per conversation
RANKING_SHARE = 0.2  # share of turns with two replies, which are ranked
REVOTE_SHARE = 0.3  # share of votes that are followed by the opposite vote, again and again
RETRACT_SHARE = 0.15  # share of votes that are retracted, half of them to vote again
EDIT_SHARE = 0.2  # share of replies that are edited
HANG_UP_SHARE = 0.1  # share of votes that are first sent without waiting for the answer
TIMEOUT = 60.0  # seconds to an answer, retries included
HANG_UP_AFTER = 0.005  # seconds; about the latency of a vote
PROMPTS = (
    "Hello!", "What is the capital of France?", "Tell me a joke.", "What is 2 plus 3?",
    "How are you today?", "What colour is the sky?", "Tell me about cats.", "What day comes after Monday?",
)  # fmt: skip


class Balancer:
    """A round-robin client of all replicas."""

    def __init__(self, urls: Sequence[str]) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        self.replicas = [httpx.Client(base_url=url, headers=headers, timeout=20) for url in urls]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            replica.close()

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Returns the answer; after a short pause None, if there was none or it was a 5xx."""
        self.replicas.append(self.replicas.pop(0))
        try:
            answer = self.replicas[0].request(method, path, **request)
        except httpx.HTTPError:
            answer = None
        if answer is None or answer.status_code >= 500:
            time.sleep(0.2)
            return None
        return answer


class Client(threading.Thread):
    """A client thread that repeats `act` until it is `done`, and records every answer."""

    def __init__(self, urls: Sequence[str], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.service = Balancer(urls)
        self.record = ClientRecord()
        self.pause = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        with self.service:
            while not self.done.is_set():
                self.act()
                self.done.wait(self.pause)

    def act(self) -> None:
        raise NotImplementedError

    def chat(self, conversation: str, **fields: Any) -> dict[str, Any] | None:
        """Returns a completion, or None if the client is done before, or is refused."""
        body = {
            "model": "default",
            "user": self.name,
            "metadata": {"conversation_id": conversation},
            **fields,
        }
        while not self.done.is_set():
            answer = self.service.ask("POST", "/v1/chat/completions", json=body)
            if answer is not None and answer.status_code == 200:
                reply: dict[str, Any] = answer.json()
                self.record.turns.setdefault(conversation, []).append(reply["id"])
                return reply
            if answer is not None:
                self.record.refused.append(answer.text)
                return None
        return None

    def vote(self, conversation: str, completion: str, *, hang_up: bool = False, **fields: Any) -> str | None:
        """Returns the vote's id, or None if it was refused, which is recorded."""
        body = {"completion_id": completion, **fields}
        sent = {"json": body, "headers": {"Idempotency-Key": uuid.uuid4().hex}}
        if hang_up:
            self.service.ask("POST", "/v1/feedback", **sent, timeout=HANG_UP_AFTER)
        answer = self._insist("POST", "/v1/feedback", **sent)
        if answer is None or answer.status_code not in (201, 202):
            return None
        vote, identity = parse_vote(body), str(answer.json()["id"])
        if answer.status_code == 202:
            self._wait_until_recorded(identity)
        self.record.votes.append(
            Acknowledgement("recorded", identity, conversation, completion, vote.slot, vote.facts)
        )
        return identity

    def _wait_until_recorded(self, identity: str) -> None:
        """A vote that is spooled is recorded under this id once Postgres is back; the replica that is asked
        may not know of it yet."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            answer = self.service.ask("GET", f"/v1/feedback/{identity}")
            if answer is not None and answer.status_code == 200:
                return
            time.sleep(0.1)
        self.record.refused.append(f"{identity} was spooled and not recorded in {TIMEOUT} s")

    def retract(self, identity: str) -> None:
        """Retracts a vote that was acknowledged."""
        answer = self._insist("DELETE", f"/v1/feedback/{identity}")
        if answer is not None and answer.status_code == 200:
            vote = next(each for each in reversed(self.record.votes) if each.id == identity)
            self.record.votes.append(
                Acknowledgement("retracted", vote.id, vote.conversation, vote.completion, vote.slot, {})
            )

    def _insist(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Returns the answer after as many retries as it takes; records an error, or no answer in time."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            answer = self.service.ask(method, path, **request)
            if answer is not None:
                if answer.status_code >= 400:
                    self.record.refused.append(f"{method} {path}: {answer.text}")
                return answer
        self.record.refused.append(f"{method} {path}: no answer in {TIMEOUT} s")
        return None


class Person(Client):
    """A user with endless conversations of several turns, who prefers short replies, votes on them in every
    way, and often changes a vote."""

    def __init__(self, urls: Sequence[str], number: int) -> None:
        super().__init__(urls, f"person-{number}")
        self.random = random.Random(number)

    def act(self) -> None:
        conversation = f"{self.name}-{uuid.uuid4().hex}"
        messages: list[dict[str, str]] = []
        for _ in range(self.random.randint(1, MAX_TURNS)):
            messages.append({"role": "user", "content": self.random.choice(PROMPTS)})
            choices = 1 + self.chance(RANKING_SHARE)
            reply = self.chat(conversation, messages=messages, n=choices)
            if reply is None:
                return
            texts = [choice["message"]["content"] for choice in reply["choices"]]
            if choices == 2:
                self.rank(conversation, reply["id"], texts)
            else:
                self.thumb(conversation, reply["id"], texts[0])
            if self.chance(EDIT_SHARE):
                self.edit(conversation, reply["id"], texts[0])
            messages.append({"role": "assistant", "content": texts[0]})
            self.done.wait(self.pause)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def rank(self, conversation: str, completion: str, texts: list[str]) -> None:
        best = min((0, 1), key=lambda choice: len(texts[choice]))
        rankings = [[[best], [1 - best]], [[0, 1]]]
        self.vote_often(conversation, completion, [{"type": "ranking", "ranking": each} for each in rankings])

    def thumb(self, conversation: str, completion: str, text: str) -> None:
        values = ["up", "down"] if len(text.split()) <= SHORT_WORDS else ["down", "up"]
        self.vote_often(conversation, completion, [{"type": "thumb", "value": each} for each in values])

    def edit(self, conversation: str, completion: str, text: str) -> None:
        words = text.split()
        if len(words) >= 4:
            shorter = [" ".join(words[: len(words) // part]) for part in (2, 3)]
            self.vote_often(conversation, completion, [{"type": "edit", "text": each} for each in shorter])

    def vote_often(self, conversation: str, completion: str, opinions: list[dict[str, Any]]) -> None:
        """Votes with the first opinion, then with the others in turn, as often as chance says."""
        turn = 0
        while True:
            opinion = opinions[turn % len(opinions)]
            identity = self.vote(conversation, completion, hang_up=self.chance(HANG_UP_SHARE), **opinion)
            turn += 1
            if identity is None:
                return
            if self.chance(RETRACT_SHARE):
                self.retract(identity)
                if self.chance(0.5):
                    turn -= 1
                    continue
                return
            if not self.chance(REVOTE_SHARE):
                return


class Watch(Client):
    """A probe that repeats one request; `answered` are the times of each answered request and its answer."""

    def __init__(self, urls: Sequence[str], name: str) -> None:
        super().__init__(urls, name)
        self.pause = 0.2
        self.answered: list[tuple[float, float]] = []

    def act(self) -> None:
        sent = time.monotonic()
        if self.succeeds():
            self.answered.append((sent, time.monotonic()))

    def succeeds(self) -> bool:
        raise NotImplementedError

    def recovery_after(self, moment: float) -> float:
        """Returns the seconds from `moment` to the answer of a request sent after it; infinite if none
        came."""
        return next((came - moment for sent, came in self.answered if sent >= moment), float("inf"))


class ChatWatch(Watch):
    """Requests short completions."""

    def succeeds(self) -> bool:
        body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        answer = self.service.ask("POST", "/v1/chat/completions", json=body | {"user": self.name})
        return answer is not None and answer.status_code == 200


class VoteWatch(Watch):
    """Sends `copied` signals on one reply: signals, unlike its many votes would, start no round."""

    def __init__(self, urls: Sequence[str], name: str) -> None:
        super().__init__(urls, name)
        self.completion: str | None = None

    def succeeds(self) -> bool:
        if self.completion is None:
            reply = self.chat(self.name, messages=[{"role": "user", "content": "Hi"}])
            self.completion = reply["id"] if reply else None
        return self.completion is not None and bool(
            self.vote(self.name, self.completion, type="signal", signal="copied")
        )


class Crowd:
    """Four people and two probes load an installation, and other replicas of it, while the block runs. Then
    the backlog drains, and `problems` lists the audit's findings. Raises AssertionError if the service stays
    down."""

    def __init__(self, installation: Installation, *others: str, kafka: KafkaSettings) -> None:
        urls = [installation.url, *others]
        self.installation = installation
        self.people = [Person(urls, number) for number in range(4)]
        self.chat = ChatWatch(urls, "watch-chat")
        self.votes = VoteWatch(urls, "watch-votes")
        self.auditor = Auditor(installation.database_url(), kafka)
        self.problems: list[str] = []

    @property
    def acknowledged(self) -> int:
        """Returns the number of acknowledged votes and retractions."""
        return sum(len(person.record.votes) for person in self.people)

    def __enter__(self) -> Self:
        for thread in (*self._clients, self.auditor):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic()
        try:
            if error is None:
                wait(
                    lambda: max(self.chat.recovery_after(end), self.votes.recovery_after(end)) < TIMEOUT,
                    "chats and votes are answered again",
                )
        finally:
            for client in self._clients:
                client.done.set()
        for client in self._clients:
            client.join(2 * TIMEOUT)
        try:
            if error is None:
                records = [client.record for client in self._clients]
                self.problems = audit(self.installation, records, self.auditor.entries)
        finally:
            self.auditor.done.set()
            self.auditor.join(TIMEOUT)

    @property
    def _clients(self) -> list[Client]:
        return [*self.people, self.chat, self.votes]
