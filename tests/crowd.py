"""People who chat and vote while the service is struck, two who only watch whether it answers, and all that
they were told.

A person does one thing after the other, and repeats what nobody answered until somebody does: a vote under
the same Idempotency-Key, through whichever replica is next. So what a person was told is one sequence, and
what exists afterwards follows from it (`tests.audit`)."""

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
from tests.audit import Memory, Told, compare
from tests.auditor import Auditor
from tests.installation import ADMIN_KEY, Installation, wait

SHORT = 18  # words
MOST_TURNS = 3  # of a conversation
SIDE_BY_SIDE = 0.2  # of the turns have two replies, which are ranked
CHANGES_MIND = 0.3  # of the votes are followed by the opposite, which may be followed in turn
RETRACTS = 0.15  # of the votes are taken back, half of them to vote again
EDITS = 0.2  # of the replies are edited
HANGS_UP = 0.1  # of the votes are sent first by somebody who does not wait for the answer
PATIENCE = 60.0  # seconds for an answer
IMPATIENCE = 0.005  # seconds: about what a vote takes
PROMPTS = (
    "Hello!", "What is the capital of France?", "Tell me a joke.", "What is 2 plus 3?",
    "How are you today?", "What colour is the sky?", "Tell me about cats.", "What day comes after Monday?",
)  # fmt: skip


class Balancer:
    """A client of all replicas: the next request goes to the next one."""

    def __init__(self, urls: Sequence[str]) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        self.replicas = [httpx.Client(base_url=url, headers=headers, timeout=20) for url in urls]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            replica.close()

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer; None, a moment later, when there was none or it was a 5xx."""
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
    """Somebody with a client, and what they remember; `live` is what they do until they are `done`."""

    def __init__(self, urls: Sequence[str], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.service = Balancer(urls)
        self.memory = Memory()
        self.pause = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        with self.service:
            while not self.done.is_set():
                self.live()
                self.done.wait(self.pause)

    def live(self) -> None:
        raise NotImplementedError

    def chat(self, conversation: str, **fields: Any) -> dict[str, Any] | None:
        """A completion; None when we are done before there is one."""
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
                self.memory.turns.setdefault(conversation, []).append(reply["id"])
                return reply
            if answer is not None:
                self.memory.refused.append(answer.text)
                return None
        return None

    def vote(self, conversation: str, completion: str, *, hang_up: bool = False, **fields: Any) -> str | None:
        """The vote's id; None when it was refused, and the memory says why."""
        body = {"completion_id": completion, **fields}
        sent = {"json": body, "headers": {"Idempotency-Key": uuid.uuid4().hex}}
        if hang_up:
            self.service.ask("POST", "/v1/feedback", **sent, timeout=IMPATIENCE)
        answer = self._insist("POST", "/v1/feedback", **sent)
        if answer is None or answer.status_code != 201:
            return None
        vote, identity = parse_vote(body), str(answer.json()["id"])
        self.memory.votes.append(Told("recorded", identity, conversation, completion, vote.slot, vote.facts))
        return identity

    def retract(self, identity: str) -> None:
        """Take back the vote that was told last."""
        answer = self._insist("DELETE", f"/v1/feedback/{identity}")
        if answer is not None and answer.status_code == 200:
            told = next(each for each in reversed(self.memory.votes) if each.id == identity)
            self.memory.votes.append(
                Told("retracted", told.id, told.conversation, told.completion, told.slot, {})
            )

    def _insist(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer, however often it takes to ask; what is no success, and none, is remembered."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self.service.ask(method, path, **request)
            if answer is not None:
                if answer.status_code >= 400:
                    self.memory.refused.append(f"{method} {path}: {answer.text}")
                return answer
        self.memory.refused.append(f"{method} {path}: no answer in {PATIENCE} s")
        return None


class Person(Client):
    """Has conversations of several turns without end, likes short replies, thumbs, ranks and edits them, and
    often thinks again."""

    def __init__(self, urls: Sequence[str], number: int) -> None:
        super().__init__(urls, f"person-{number}")
        self.random = random.Random(number)

    def live(self) -> None:
        conversation = f"{self.name}-{uuid.uuid4().hex}"
        messages: list[dict[str, str]] = []
        for _ in range(self.random.randint(1, MOST_TURNS)):
            messages.append({"role": "user", "content": self.random.choice(PROMPTS)})
            choices = 1 + self.happens(SIDE_BY_SIDE)
            reply = self.chat(conversation, messages=messages, n=choices)
            if reply is None:
                return
            texts = [choice["message"]["content"] for choice in reply["choices"]]
            if choices == 2:
                self.rank(conversation, reply["id"], texts)
            else:
                self.thumb(conversation, reply["id"], texts[0])
            if self.happens(EDITS):
                self.edit(conversation, reply["id"], texts[0])
            messages.append({"role": "assistant", "content": texts[0]})
            self.done.wait(self.pause)

    def happens(self, share: float) -> bool:
        return self.random.random() < share

    def rank(self, conversation: str, completion: str, texts: list[str]) -> None:
        best = min((0, 1), key=lambda choice: len(texts[choice]))
        rankings = [[[best], [1 - best]], [[0, 1]]]
        self.think(conversation, completion, [{"type": "ranking", "ranking": each} for each in rankings])

    def thumb(self, conversation: str, completion: str, text: str) -> None:
        values = ["up", "down"] if len(text.split()) <= SHORT else ["down", "up"]
        self.think(conversation, completion, [{"type": "thumb", "value": each} for each in values])

    def edit(self, conversation: str, completion: str, text: str) -> None:
        words = text.split()
        if len(words) >= 4:
            shorter = [" ".join(words[: len(words) // part]) for part in (2, 3)]
            self.think(conversation, completion, [{"type": "edit", "text": each} for each in shorter])

    def think(self, conversation: str, completion: str, opinions: list[dict[str, Any]]) -> None:
        """Vote with the first, and then with the others in turn for as long as we change our mind."""
        turn = 0
        while True:
            opinion = opinions[turn % len(opinions)]
            identity = self.vote(conversation, completion, hang_up=self.happens(HANGS_UP), **opinion)
            turn += 1
            if identity is None:
                return
            if self.happens(RETRACTS):
                self.retract(identity)
                if self.happens(0.5):
                    turn -= 1
                    continue
                return
            if not self.happens(CHANGES_MIND):
                return


class Watch(Client):
    """Asks for one thing all the time; `answered` are the moments when it was asked and when it came."""

    def __init__(self, urls: Sequence[str], name: str) -> None:
        super().__init__(urls, name)
        self.pause = 0.2
        self.answered: list[tuple[float, float]] = []

    def live(self) -> None:
        sent = time.monotonic()
        if self.succeeds():
            self.answered.append((sent, time.monotonic()))

    def succeeds(self) -> bool:
        raise NotImplementedError

    def back_after(self, moment: float) -> float:
        """Seconds from `moment` until what was asked after it was answered; infinite for never."""
        return next((came - moment for sent, came in self.answered if sent >= moment), float("inf"))


class ChatWatch(Watch):
    """Asks for a short reply."""

    def succeeds(self) -> bool:
        body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        answer = self.service.ask("POST", "/v1/chat/completions", json=body | {"user": self.name})
        return answer is not None and answer.status_code == 200


class VoteWatch(Watch):
    """Says of one reply that it was copied: a signal, which starts no round, or its votes would start them
    all."""

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
    """Four people and two who watch, while the block runs, before an installation and whatever else serves
    with it; then the backlog drains, and `problems` is what they were told and is not so. Raises
    AssertionError when the service stays away."""

    def __init__(self, installation: Installation, *others: str, kafka: KafkaSettings) -> None:
        urls = [installation.url, *others]
        self.installation = installation
        self.people = [Person(urls, number) for number in range(4)]
        self.chat = ChatWatch(urls, "watch-chat")
        self.votes = VoteWatch(urls, "watch-votes")
        self.auditor = Auditor(installation.database_url(), kafka)
        self.problems: list[str] = []

    @property
    def told(self) -> int:
        """How often people were told that a vote stands, or that it does not any more."""
        return sum(len(person.memory.votes) for person in self.people)

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
                    lambda: max(self.chat.back_after(end), self.votes.back_after(end)) < PATIENCE,
                    "chats and votes are answered again",
                )
        finally:
            for client in self._clients:
                client.done.set()
        for client in self._clients:
            client.join(2 * PATIENCE)
        try:
            if error is None:
                memories = [client.memory for client in self._clients]
                self.problems = compare(self.installation, memories, self.auditor.entries)
        finally:
            self.auditor.done.set()
            self.auditor.join(PATIENCE)

    @property
    def _clients(self) -> list[Client]:
        return [*self.people, self.chat, self.votes]
