"""The whole loop on the starter: simulated users vote, and a policy trained on their votes goes live."""

import json
import subprocess
from pathlib import Path

import httpx

from tests.installation import ADMIN_KEY, Installation, wait


def test_votes_become_a_policy_that_answers(tmp_path: Path) -> None:
    settings = {
        "HEARKEN_TRAINER__ROUND_VOTES": "25",
        "HEARKEN_TRAINER__MIN_VOTES": "25",
        "HEARKEN_TRAINER__RL__STEPS_PER_ROUND": "2",
        "HEARKEN_TRAINER__GATE__KNOWLEDGE_QUESTIONS": "64",
    }
    with Installation(tmp_path, **settings) as installation:
        answer = subprocess.run(
            [
                *installation.hearken("simulate", "--url", installation.url, "--admin-key", ADMIN_KEY),
                *("--seed", "3", "--users", "8", "--votes", "60", "--minutes", "1", "--rate", "3", "--json"),
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
            wait(lambda: live_policy(client) != "p0", "a policy is live", 150)
            live = live_policy(client)
            reply = client.post(
                "/v1/chat/completions",
                json={"model": "default", "messages": [{"role": "user", "content": "Hello!"}]},
            )
            assert reply.json()["system_fingerprint"] in {live, "p0"}
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
