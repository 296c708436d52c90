"""Faults under load: processes are killed with -9 or paused while a crowd chats and votes (`tests.crowd`);
then what people were told is compared with what there is (`tests.audit`)."""

import json
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import psutil

from tests.broker import Broker
from tests.crowd import PATIENCE, Crowd, Person
from tests.installation import PROCESSES, Installation, wait
from tests.second_replica import COMMANDS, SecondReplica

LONGEST_PAUSE = 3.0  # seconds that a process is stopped
BETWEEN = (0.3, 5.0)  # seconds from one fault to the next: what is starting again is often struck again
Asked = Literal["chat", "votes"]
NEEDED: dict[Asked, tuple[str, ...]] = {
    "chat": ("serving", "engine", "vllm", "postgres"),
    "votes": ("serving", "postgres"),
}
SETTINGS = {
    "HEARKEN_TRAINER__ROUND_VOTES": "20",
    "HEARKEN_TRAINER__MIN_VOTES": "20",
    "HEARKEN_TRAINER__RL__STEPS_PER_ROUND": "2",
    "HEARKEN_SERVING__REQUESTS_PER_MINUTE": "1000000",
}
"""Of an installation that is to learn soon, under people who never pause."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to which process and when, and the seconds until a chat and a vote that began after that
    were answered."""

    what: str
    victim: str
    moment: float
    chat: float
    votes: float


@dataclass(frozen=True, slots=True)
class Report:
    """`told`: how often people were told that a vote stands, or that it does not any more."""

    faults: list[Fault]
    told: int
    problems: list[str]

    def back(self, share: float, asked: Asked, victims: Collection[str]) -> float:
        """Seconds to be back, at this share of the faults of these victims."""
        return _at(share, [getattr(fault, asked) for fault in self.faults if fault.victim in victims])

    def back_if_let(self, share: float, asked: Asked, victims: Collection[str]) -> float:
        """The same without the faults after which something that is needed for it was struck again before it
        was back: of those the later one tells."""
        needed = [fault.moment for fault in self.faults if fault.victim in NEEDED[asked]]
        seconds = []
        for fault in self.faults:
            back = getattr(fault, asked)
            let = not any(fault.moment < moment <= fault.moment + back for moment in needed)
            if fault.victim in victims and let:
                seconds.append(back)
        return _at(share, seconds)

    def table(self) -> str:
        """A line for each victim: how often it was killed and paused, and the seconds at the median, at p95
        and at worst."""
        lines = []
        for victim in dict.fromkeys(fault.victim for fault in self.faults):
            done = [fault.what for fault in self.faults if fault.victim == victim]
            chat, votes = (
                [round(self.back(share, asked, [victim]), 1) for share in (0.5, 0.95, 1)] for asked in NEEDED
            )
            kills = done.count("kill")
            lines.append(f"{victim}: {kills} kills, {len(done) - kills} pauses; chat {chat}, votes {votes}")
        return "\n".join(lines)


def _at(share: float, seconds: list[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else 0.0


Find = Callable[[], psutil.Process | None]
Strike = Callable[[str, random.Random], float]
"""Kills or pauses something, as it is told, and lets it go on where nobody else does; returns the moment when
it was killed or stopped."""


def victims(installation: Installation, replica: SecondReplica, broker: Broker) -> dict[str, Strike]:
    """Everything that runs: the processes of an installation, one of two where there are two, and the
    broker."""
    found: dict[str, list[Find]] = {}
    for name in (*PROCESSES, "relay"):
        found[name] = [partial(installation.find, name)]
        if name in COMMANDS:
            found[name].append(partial(replica.find, name))
    own = {name: partial(strike, name, processes) for name, processes in found.items()}
    return {**own, "broker": partial(strike_broker, broker)}


def run(
    crowd: Crowd,
    victims: Mapping[str, Strike],
    faults: int,
    seed: int,
    say: Callable[[str], None],
    between: tuple[float, float] = BETWEEN,
) -> Report:
    """Faults in random order at random moments, while that crowd is there. Raises AssertionError for what
    stays away."""
    chance = random.Random(seed)
    struck: list[tuple[str, str, float]] = []
    with crowd:
        for number in range(faults):
            time.sleep(chance.uniform(*between))
            victim = chance.choice(list(victims))
            what = chance.choice(("kill", "pause"))
            say(f"fault {number + 1} of {faults}: {what} {victim}")
            struck.append((what, victim, victims[victim](what, chance)))
    seen = [
        Fault(what, victim, moment, crowd.chat.back_after(moment), crowd.votes.back_after(moment))
        for what, victim, moment in struck
    ]
    return Report(seen, crowd.told, crowd.problems)


def strike(name: str, processes: Sequence[Find], what: str, chance: random.Random) -> float:
    """One of these, as soon as it is there."""
    find = chance.choice(processes)
    while True:
        wait(lambda: find() is not None, f"{name} is there")
        with suppress(psutil.NoSuchProcess):  # it ended just then
            if (process := find()) is not None:
                if what == "pause":
                    return pause([process, *process.children(recursive=True)], chance)
                process.kill()
                return time.monotonic()


def pause(family: Sequence[psutil.Process], chance: random.Random) -> float:
    """Those that end by themselves meanwhile, as a database's backends do, are let go."""
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    stopped = time.monotonic()
    time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.resume()
    return stopped


def strike_broker(broker: Broker, what: str, chance: random.Random) -> float:
    if what == "kill":  # and with it, all that it kept
        broker.kill()
        struck = time.monotonic()
        time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
        broker.start()
    else:
        broker.pause()
        struck = time.monotonic()
        time.sleep(chance.uniform(0.2, LONGEST_PAUSE))
        broker.resume()
    return struck


def policies_after(installation: Installation, data_dir: Path) -> str:
    """Calm people vote until one more policy is published; returns it. Raises AssertionError."""
    people = [Person([installation.url], 100 + number) for number in range(4)]
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
