"""The whole loop on the starter: simulated users vote, and a policy trained on their votes answers."""

import json
import subprocess
from pathlib import Path

import httpx

from tests.installation import ADMIN_KEY, Installation, wait


def test_votes_become_a_policy_that_answers(tmp_path: Path) -> None:
    settings = {
        "HEARKEN_TRAINER__ROUND_VOTES": "40",
        "HEARKEN_TRAINER__MIN_VOTES": "40",
        "HEARKEN_TRAINER__RL__STEPS_PER_ROUND": "2",
        "HEARKEN_TRAINER__RL__PROMPTS_PER_STEP": "4",
        "HEARKEN_TRAINER__GATE__EVAL_PROMPTS": "8",
        "HEARKEN_TRAINER__GATE__KNOWLEDGE_QUESTIONS": "64",
    }
    with Installation(tmp_path, **settings) as installation:
        answer = subprocess.run(
            [
                *installation.hearken("simulate", "--url", installation.url, "--admin-key", ADMIN_KEY),
                *(
                    "--seed",
                    "3",
                    "--users",
                    "8",
                    "--votes",
                    "40",
                    "--minutes",
                    "0.3",
                    "--rate",
                    "10",
                    "--json",
                ),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        report = json.loads(answer.stdout)
        assert report["failed_requests"] == 0
        with installation.client() as client:
            wait(lambda: tried_policy(client) is not None, "a policy is live or a canary", 150)
            assert installation.run("pause").returncode == 0
            tried = tried_policy(client)
            assert tried is not None
            wait(lambda: answers(client) == tried, f"{tried} answers", 30)
            if live_policy(client) != tried:
                promoted = installation.run("promote", tried)
                assert promoted.returncode == 0, promoted.stderr
            live = live_policy(client)
            assert live != "p0"
            lines = client.get("/v1/feedback/export?format=jsonl").text.splitlines()
            learned = [
                client.get(f"/v1/feedback/{json.loads(line)['id']}").json()["learned"] for line in lines[:20]
            ]
            assert any(lesson and lesson["live_at"] for lesson in learned)
        rolled_back = installation.run("rollback")
        assert rolled_back.returncode == 0, rolled_back.stderr
        with installation.client() as client:
            state = client.get(f"/v1/policies/{live}").json()["state"]
            assert state == "rolled_back"
        assert list((tmp_path / "rounds").rglob("*.html"))
        outbox_is_free_of_text(installation, lines)


def tried_policy(client: httpx.Client) -> str | None:
    """Returns the newest policy that answers a share of the conversations, or all."""
    rows = client.get("/v1/policies").json()["data"]
    tried = (str(row["id"]) for row in rows if row["id"] != "p0" and row["state"] in ("live", "canary"))
    return next(tried, None)


def answers(client: httpx.Client) -> str:
    """Returns the policy that answers a new conversation."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}
    return str(client.post("/v1/chat/completions", json=body).json()["system_fingerprint"])


def live_policy(client: httpx.Client) -> str:
    rows = client.get("/v1/policies").json()["data"]
    return next(str(row["id"]) for row in rows if row["state"] == "live")


def outbox_is_free_of_text(installation: Installation, lines: list[str]) -> None:
    """Asserts that the log holds no prompt, only ids and numbers."""
    import psycopg

    from deploy.local.postgres import database
    from schemas.settings import load

    prompts = {json.loads(line)["prompt"][-1]["content"] for line in lines}
    with database(load(data_dir=installation.data_dir)) as url, psycopg.connect(url) as connection:
        events = [str(row[0]) for row in connection.execute("select event from outbox").fetchall()]
    assert prompts
    assert not any(prompt in event for prompt in prompts for event in events)
