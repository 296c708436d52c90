"""kill -9 of every process at random moments: no acknowledged vote is lost or counted twice, and the
service goes on learning."""

import json
import random
import threading
import time
import uuid
from pathlib import Path

import httpx

from tests.installation import PROCESSES, Installation

SEED = 7
ROUNDS_OF_KILLS = 2
PROMPTS = ("Hello!", "What is the capital of France?", "Tell me a joke.", "What is 2 plus 3?")


class Voter(threading.Thread):
    """Chats and votes without end. Retries a vote under one Idempotency-Key until it has an answer."""

    def __init__(self, installation: Installation, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.installation = installation
        self.random = random.Random(name)
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        with self.installation.client(timeout=20) as client:
            while not self.done.is_set():
                completion = self.chat(client)
                if completion is not None:
                    self.vote(client, completion)

    def chat(self, client: httpx.Client) -> str | None:
        message = {"role": "user", "content": self.random.choice(PROMPTS)}
        try:
            answer = client.post(
                "/v1/chat/completions", json={"model": "default", "messages": [message], "user": self.name}
            )
        except httpx.HTTPError:
            time.sleep(0.2)
            return None
        if answer.status_code == 200:
            return str(answer.json()["id"])
        time.sleep(0.2)
        return None

    def vote(self, client: httpx.Client, completion: str) -> None:
        value = self.random.choice(["up", "down"])
        body = {"completion_id": completion, "choice": 0, "type": "thumb", "value": value}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        while not self.done.is_set():
            try:
                answer = client.post("/v1/feedback", json=body, headers=headers)
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            if answer.status_code == 201:
                self.acknowledged.append(answer.json()["id"])
                return
            if answer.status_code < 500:
                self.refused.append(answer.text)
                return
            time.sleep(0.2)


def test_nothing_acknowledged_is_lost_and_learning_goes_on(tmp_path: Path) -> None:
    settings = {
        "HEARKEN_TRAINER__ROUND_VOTES": "20",
        "HEARKEN_TRAINER__MIN_VOTES": "20",
        "HEARKEN_TRAINER__RL__STEPS": "2",
        "HEARKEN_SERVING__REQUESTS_PER_MINUTE": "1000000",
    }
    order = [name for _ in range(ROUNDS_OF_KILLS) for name in PROCESSES]
    chance = random.Random(SEED)
    chance.shuffle(order)
    with Installation(tmp_path, **settings) as installation:
        voters = [Voter(installation, f"voter-{number}") for number in range(4)]
        for voter in voters:
            voter.start()
        for name in order:
            time.sleep(chance.uniform(0.5, 4))
            deadline = time.monotonic() + 40
            while not installation.kill(name):
                assert time.monotonic() < deadline, f"{name} did not come back"
                time.sleep(0.2)
        installation.wait_until_ready()
        before = len(policies(installation))
        deadline = time.monotonic() + 120
        while len(policies(installation)) <= before:
            assert time.monotonic() < deadline, "no policy was published after the faults"
            time.sleep(1)
        for voter in voters:
            voter.done.set()
        for voter in voters:
            voter.join(30)
        exported = installation.run("export")
    assert exported.returncode == 0, exported.stderr
    kept = [json.loads(line)["id"] for line in exported.stdout.splitlines()]
    acknowledged = [vote for voter in voters for vote in voter.acknowledged]
    assert len(acknowledged) > 40
    assert [voter.refused for voter in voters] == [[]] * 4
    assert sorted(kept) == sorted(set(kept))
    assert set(acknowledged) <= set(kept)
    assert len(kept) - len(acknowledged) <= len(voters)  # at most each voter's last, cut off by the end


def policies(installation: Installation) -> list[str]:
    with installation.client() as client:
        for _ in range(50):
            try:
                answer = client.get("/v1/policies")
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            if answer.status_code == 200:
                return [row["id"] for row in answer.json()["data"]]
            time.sleep(0.2)
    raise AssertionError("the API does not answer")
