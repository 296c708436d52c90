"""Fault injection under load: processes are killed with SIGKILL or paused while clients chat and vote
(`tests.crowd`); then the audit compares their answers with the state of the system (`tests.audit`)."""

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
from tests.crowd import TIMEOUT, Crowd, Person
from tests.installation import PROCESSES, Installation, wait
from tests.second_replica import COMMANDS, SecondReplica
from tests.unlimited import UNLIMITED_ENVIRONMENT

MAX_PAUSE = 3.0  # seconds that a process is paused
BETWEEN = (0.3, 5.0)  # seconds between faults; many hit a process that is just restarting
Request = Literal["chat", "votes"]
NEEDED: dict[Request, tuple[str, ...]] = {
    "chat": ("serving", "engine", "vllm", "postgres"),
    "votes": ("serving", "postgres"),
}
SETTINGS = {
    "HEARKEN_TRAINER__ROUND_VOTES": "20",
    "HEARKEN_TRAINER__MIN_VOTES": "20",
    "HEARKEN_TRAINER__RL__STEPS_PER_ROUND": "2",
    **UNLIMITED_ENVIRONMENT,
}
"""Settings of an installation that trains often, under clients that never pause."""

QUICK_ROUNDS = {
    "HEARKEN_SERVING__MAX_TOKENS": "24",  # three turns of random replies fit the context of 256
    "HEARKEN_TRAINER__RL__PROMPTS_PER_STEP": "4",
    "HEARKEN_TRAINER__RL__MAX_TOKENS": "12",
    "HEARKEN_TRAINER__RL__NO_EOS_PENALTY": "0",
    "HEARKEN_TRAINER__GATE__EVAL_PROMPTS": "4",
    "HEARKEN_TRAINER__GATE__MAX_NO_EOS_INCREASE": "1",
    "HEARKEN_TRAINER__GATE__MAX_REPETITION_INCREASE": "1",
}
"""Settings with which a random model has rounds of seconds, which pass the gate."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: its kind, victim and time, and the seconds until a chat and a vote sent after it were
    answered."""

    what: str
    victim: str
    moment: float
    chat: float
    votes: float


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an injection; `acknowledged` counts votes and retractions."""

    faults: list[Fault]
    acknowledged: int
    problems: list[str]

    def recovery(self, share: float, request: Request, victims: Collection[str]) -> float:
        """Returns the recovery time (seconds) at this quantile, over the faults of these victims."""
        return _at(share, [getattr(fault, request) for fault in self.faults if fault.victim in victims])

    def undisturbed_recovery(self, share: float, request: Request, victims: Collection[str]) -> float:
        """Returns the same without faults during whose recovery another one hit a process that is needed: of
        these only the last one counts."""
        needed = [fault.moment for fault in self.faults if fault.victim in NEEDED[request]]
        seconds = []
        for fault in self.faults:
            back = getattr(fault, request)
            undisturbed = not any(fault.moment < moment <= fault.moment + back for moment in needed)
            if fault.victim in victims and undisturbed:
                seconds.append(back)
        return _at(share, seconds)

    def table(self) -> str:
        """Returns a line per victim: numbers of kills and pauses, and recovery at the median, p95 and
        worst."""
        lines = []
        for victim in dict.fromkeys(fault.victim for fault in self.faults):
            done = [fault.what for fault in self.faults if fault.victim == victim]
            chat, votes = (
                [round(self.recovery(share, request, [victim]), 1) for share in (0.5, 0.95, 1)]
                for request in NEEDED
            )
            kills = done.count("kill")
            lines.append(f"{victim}: {kills} kills, {len(done) - kills} pauses; chat {chat}, votes {votes}")
        return "\n".join(lines)


def _at(share: float, seconds: list[float]) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else 0.0


Find = Callable[[], psutil.Process | None]
Injector = Callable[[str, random.Random], float]
"""Injects a kill or a pause, as told, and restarts the victim if no supervisor does. Returns the time of the
fault."""


def victims(installation: Installation, replica: SecondReplica, broker: Broker) -> dict[str, Injector]:
    """Returns the injector of each kind of process of the installation, at random of either replica, and of
    the broker."""
    found: dict[str, list[Find]] = {}
    for name in (*PROCESSES, "relay"):
        found[name] = [partial(installation.find, name)]
        if name in COMMANDS:
            found[name].append(partial(replica.find, name))
    own = {name: partial(inject, name, processes) for name, processes in found.items()}
    return {**own, "broker": partial(inject_broker, broker)}


def run(
    crowd: Crowd,
    victims: Mapping[str, Injector],
    faults: int,
    seed: int,
    say: Callable[[str], None],
    between: tuple[float, float] = BETWEEN,
) -> Report:
    """Injects faults at random times while the load runs: both kinds to each victim in random order, then all
    of them again, and so on. Raises AssertionError if the service stays down."""
    chance = random.Random(seed)
    injected: list[tuple[str, str, float]] = []
    deck: list[tuple[str, str]] = []
    with crowd:
        for number in range(faults):
            time.sleep(chance.uniform(*between))
            if not deck:
                deck = [(victim, what) for victim in victims for what in ("kill", "pause")]
                chance.shuffle(deck)
            victim, what = deck.pop()
            say(f"fault {number + 1} of {faults}: {what} {victim}")
            injected.append((what, victim, victims[victim](what, chance)))
    seen = [
        Fault(what, victim, moment, crowd.chat.recovery_after(moment), crowd.votes.recovery_after(moment))
        for what, victim, moment in injected
    ]
    return Report(seen, crowd.acknowledged, crowd.problems)


def inject(name: str, processes: Sequence[Find], what: str, chance: random.Random) -> float:
    """Kills or pauses one of these processes, as soon as it exists."""
    find = chance.choice(processes)
    while True:
        wait(lambda: find() is not None, f"{name} runs")
        with suppress(psutil.NoSuchProcess):  # it ended just then
            if (process := find()) is not None:
                if what == "pause":
                    return pause([process, *process.children(recursive=True)], chance)
                process.kill()
                return time.monotonic()


def pause(family: Sequence[psutil.Process], chance: random.Random) -> float:
    """Pauses the processes for a random time, except those that end by themselves meanwhile, like a
    database's backends."""
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    stopped = time.monotonic()
    time.sleep(chance.uniform(0.2, MAX_PAUSE))
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.resume()
    return stopped


def inject_broker(broker: Broker, what: str, chance: random.Random) -> float:
    """Kills or pauses the broker."""
    if what == "kill":  # it loses all data: they are in memory
        broker.kill()
        injected = time.monotonic()
        time.sleep(chance.uniform(0.2, MAX_PAUSE))
        broker.start()
    else:
        broker.pause()
        injected = time.monotonic()
        time.sleep(chance.uniform(0.2, MAX_PAUSE))
        broker.resume()
    return injected


def policies_after(installation: Installation, data_dir: Path) -> str:
    """Lets slower clients vote until one more policy is published, and returns it. Raises AssertionError."""
    people = [Person([installation.url], 100 + number) for number in range(4)]
    before = set(policies(installation))
    for person in people:
        person.pause = 1.0
        person.start()
    deadline = time.monotonic() + 4 * TIMEOUT
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
        rows = client.get("/v1/policies").json()["data"]
    return [row["id"] for row in rows if row["state"] != "rejected"]


def rounds(data_dir: Path) -> str:
    """Returns the outcome of each round, as the trainer recorded it."""
    found = [json.loads(file.read_text()) for file in sorted((data_dir / "rounds").rglob("0*.json"))]
    return "\n".join(f"{each['round']}: {each['outcome']}, {each['reason']}" for each in found)
