"""Faults under load: people chat and vote while processes are killed with -9 or paused; then what people were
told is compared with what there is."""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import psycopg

from tests.broker import Broker
from tests.installation import PROCESSES, Installation

SHORT = 18  # words
CHANGES_MIND = 0.3  # of the votes are followed by the opposite
PATIENCE = 60.0  # seconds for a fault to be over
ROUNDS = 240.0  # seconds for a crash point: those after the gate wait for a round that it lets through
DRAINED = 300.0  # seconds for the backlog after the last: the trainer reads between its rounds
LONGEST_PAUSE = 3.0  # seconds that a process is stopped
BETWEEN = (0.3, 5.0)  # seconds from one fault to the next: what is starting again is often struck again
SETTINGS = {
    "HEARKEN_TRAINER__ROUND_VOTES": "20",
    "HEARKEN_TRAINER__MIN_VOTES": "20",
    "HEARKEN_TRAINER__RL__STEPS": "2",
    "HEARKEN_SERVING__REQUESTS_PER_MINUTE": "1000000",
}
"""Of an installation that is to learn soon, under people who never pause."""
PROMPTS = (
    "Hello!", "What is the capital of France?", "Tell me a joke.", "What is 2 plus 3?",
    "How are you today?", "What colour is the sky?", "Tell me about cats.", "What day comes after Monday?",
)  # fmt: skip


@dataclass
class Told:
    """A vote that was acknowledged, in the order of the person's votes."""

    id: str
    completion: str
    value: str


class Person(threading.Thread):
    """Chats and votes without end, likes short replies, and changes their mind now and then. A vote is sent
    again under one Idempotency-Key until there is an answer."""

    def __init__(self, installation: Installation, number: int) -> None:
        super().__init__(name=f"person-{number}", daemon=True)
        self.installation = installation
        self.random = random.Random(number)
        self.told: list[Told] = []
        self.refused: list[str] = []
        self.pause = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        with self.installation.client(timeout=20) as client:
            while not self.done.is_set():
                reply = self.chat(client)
                if reply is not None:
                    short = len(reply["choices"][0]["message"]["content"].split()) <= SHORT
                    values = ["up", "down"] if short else ["down", "up"]
                    for value in values[: 1 + (self.random.random() < CHANGES_MIND)]:
                        self.vote(client, reply["id"], value)
                self.done.wait(self.pause)

    def chat(self, client: httpx.Client) -> dict[str, Any] | None:
        message = {"role": "user", "content": self.random.choice(PROMPTS)}
        body = {"model": "default", "messages": [message], "user": self.name}
        answer = ask(client, "/v1/chat/completions", body)
        return answer.json() if answer is not None and answer.status_code == 200 else None

    def vote(self, client: httpx.Client, completion: str, value: str) -> None:
        body = {"completion_id": completion, "choice": 0, "type": "thumb", "value": value}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = ask(client, "/v1/feedback", body, headers)
            if answer is not None and answer.status_code == 201:
                self.told.append(Told(answer.json()["id"], completion, value))
                return
            if answer is not None and answer.status_code < 500:
                self.refused.append(answer.text)
                return
        self.refused.append(f"no answer in {PATIENCE} s")


def ask(
    client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response | None:
    """The answer; None, a moment later, when there was none or it was a 5xx for a request that may wait."""
    try:
        answer = client.post(path, json=body, headers=headers)
    except httpx.HTTPError:
        time.sleep(0.2)
        return None
    if answer.status_code >= 500:
        time.sleep(0.2)
    return answer


class Watch(threading.Thread):
    """Asks for a short reply all the time; `answered` are the moments when one was asked that came."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(name="watch", daemon=True)
        self.installation = installation
        self.answered: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        with self.installation.client(timeout=20) as client:
            while not self.done.wait(0.1):
                sent = time.monotonic()
                answer = ask(client, "/v1/chat/completions", body | {"store": True, "user": "watch"})
                if answer is not None and answer.status_code == 200:
                    self.answered.append(sent)

    def back_after(self, moment: float) -> float:
        """Seconds from `moment` to the first request after it that was answered; infinite for never."""
        return next((sent - moment for sent in self.answered if sent >= moment), float("inf"))


@dataclass
class Report:
    """`faults`: what was done to which process, and after how many seconds the service answered again."""

    faults: list[tuple[str, str, float]]
    told: list[Told]
    problems: list[str]

    def back_at(self, share: float) -> float:
        """Seconds to be back, at this share of the faults."""
        seconds = sorted(back for _, _, back in self.faults)
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


class Crowd:
    """People who chat and vote, and one who only watches, while the block runs; then the backlog drains and
    `told` and `problems` are complete. Raises AssertionError when the service stays away."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.people = [Person(installation, number) for number in range(4)]
        self.watch = Watch(installation)
        self.problems: list[str] = []

    @property
    def told(self) -> list[Told]:
        return [vote for person in self.people for vote in person.told]

    def __enter__(self) -> Self:
        for thread in (*self.people, self.watch):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic()
        try:
            if error is None:
                wait(lambda: self.watch.back_after(end) < PATIENCE, "the service answers again")
        finally:
            for person in self.people:
                person.done.set()
            self.watch.done.set()
        for person in self.people:
            person.join(2 * PATIENCE)
            self.problems += person.refused
        self.watch.join(PATIENCE)
        if error is None:
            self.problems += compare(self.installation, [person.told for person in self.people])


Strike = Callable[[str, random.Random], None]
"""Kills or pauses something, as it is told, and lets it go on where nobody else does."""


def victims(installation: Installation, broker: Broker) -> dict[str, Strike]:
    """Everything that runs: the processes of an installation, and the broker that it relays to."""
    own = {name: partial(strike, installation, name) for name in (*PROCESSES, "relay")}
    return {**own, "broker": partial(strike_broker, broker)}


def run(
    installation: Installation,
    victims: Mapping[str, Strike],
    faults: int,
    seed: int,
    say: Callable[[str], None],
    between: tuple[float, float] = BETWEEN,
) -> Report:
    """Faults in random order at random moments. Raises AssertionError for what stays away."""
    chance = random.Random(seed)
    struck: list[tuple[str, str, float]] = []
    with Crowd(installation) as crowd:
        for number in range(faults):
            time.sleep(chance.uniform(*between))
            name = chance.choice(list(victims))
            what = chance.choice(("kill", "pause"))
            struck.append((what, name, time.monotonic()))
            say(f"fault {number + 1} of {faults}: {what} {name}")
            victims[name](what, chance)
    faults_seen = [(what, name, crowd.watch.back_after(moment)) for what, name, moment in struck]
    return Report(faults_seen, crowd.told, crowd.problems)


class Points:
    """The crash points of an installation's processes (`tests.crashing`), kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PYTHONPATH": str(Path(__file__).parent / "crashing"),
            "HEARKEN_TEST_CRASHES": str(folder),
        }

    def crash(self, point: str) -> None:
        """Have the next process that reaches `point` die there; returns when it has. Raises AssertionError
        when none comes there."""
        (self.folder / "fired").unlink(missing_ok=True)
        draft = self.folder / "draft"
        draft.write_text(point)
        draft.rename(self.folder / "armed")
        wait((self.folder / "fired").exists, f"a process came to {point}; seen: {self.seen()}", ROUNDS)

    def seen(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "seen").iterdir())


def strike(installation: Installation, name: str, what: str, chance: random.Random) -> None:
    process = None

    def found() -> bool:
        nonlocal process
        process = installation.find(name)
        return process is not None

    wait(found, f"{name} is there")
    assert process is not None
    if what == "kill":
        installation.kill(name)
        return
    pause([process, *process.children(recursive=True)], chance)


def pause(family: Sequence[psutil.Process], chance: random.Random) -> None:
    """Those that end by themselves meanwhile, as a database's backends do, are let go."""
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.resume()


def strike_broker(broker: Broker, what: str, chance: random.Random) -> None:
    if what == "kill":  # and with it, all that it kept
        broker.kill()
        time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
        broker.start()
        return
    broker.pause()
    time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
    broker.resume()


def wait(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it is not true after {patience} s that {what}"
        time.sleep(0.1)


def compare(installation: Installation, told: list[list[Told]]) -> list[str]:
    """What is wrong with what is stored and with what the trainer made of it, by what people were told."""
    exported = installation.run("export")
    if exported.returncode != 0:
        return [exported.stderr]
    kept = [json.loads(line)["id"] for line in exported.stdout.splitlines()]
    acknowledged = [vote.id for votes in told for vote in votes]
    problems = []
    if lost := set(acknowledged) - set(kept):
        problems.append(f"{len(lost)} acknowledged votes are lost")
    if unknown := set(kept) - set(acknowledged):
        problems.append(f"{len(unknown)} votes are kept that nobody was told of")
    if len(kept) != len(set(kept)):
        problems.append(f"{len(kept) - len(set(kept))} votes are kept twice")

    with psycopg.connect(installation.database_url()) as connection:

        def examples() -> dict[str, tuple[str, bool]]:
            rows = connection.execute("select feedback_id, value ->> 'value', ended_by is null from examples")
            found = {row[0]: (row[1], row[2]) for row in rows.fetchall()}
            connection.rollback()
            return found

        try:
            wait(lambda: set(acknowledged) <= set(examples()), "the trainer has read every vote", DRAINED)
        except AssertionError as error:
            problems.append(f"{error}: {len(set(acknowledged) - set(examples()))} are missing")
        learned = examples()
    last = {vote.completion: vote for votes in told for vote in votes}
    standing = {identity for identity, (_, stands) in learned.items() if stands}
    wrong = standing.symmetric_difference({vote.id for vote in last.values()} & set(learned))
    if wrong:
        problems.append(f"{len(wrong)} conversations do not end with their last vote")
    if misread := [
        vote.id for votes in told for vote in votes if learned.get(vote.id, (vote.value,))[0] != vote.value
    ]:
        problems.append(f"{len(misread)} votes were read as something else")
    return problems


def policies_after(installation: Installation, data_dir: Path) -> str:
    """Calm people vote until one more policy is published; returns it. Raises AssertionError."""
    people = [Person(installation, 100 + number) for number in range(4)]
    before = set(policies(installation))
    for person in people:
        person.pause = 1.0
        person.start()
    deadline = time.monotonic() + 4 * PATIENCE
    try:
        while not (fresh := set(policies(installation)) - before):
            assert time.monotonic() < deadline, "no policy after the faults:\n" + rounds(data_dir)
            time.sleep(1)
    finally:
        for person in people:
            person.done.set()
    return sorted(fresh)[0]


def policies(installation: Installation) -> list[str]:
    with installation.client() as client:
        return [row["id"] for row in client.get("/v1/policies").json()["data"]]


def rounds(data_dir: Path) -> str:
    """What came of each round, as the trainer recorded it."""
    found = [json.loads(file.read_text()) for file in sorted((data_dir / "rounds").rglob("0*.json"))]
    return "\n".join(f"{each['round']}: {each['outcome']}, {each['reason']}" for each in found)
