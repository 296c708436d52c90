"""A project as after a week of use, for tests of the console: people, tagged chats, votes of each kind,
rounds with their records, a lineage, and a canary that is running."""

import hashlib
import random
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.types.json import Jsonb

from feedback import receipt

POLICIES = ["p0", "p1-4be0aa", "p2-9d31c7", "p3-17fe02", "p4-c2a9d8", "p5-80b6e1"]
LIVE, PREVIOUS, CANARY, REFUSED = POLICIES[3], POLICIES[1], POLICIES[5], POLICIES[2]
TURNS = 240
HELD = (31, 32, 33)
"""The numbers of people whose votes look hostile."""
ERASED, ERASING = f"erasure-{'a' * 24}", f"erasure-{'b' * 24}"
"""An erasure that is done, and one that goes on."""

_ASKED = [
    (
        "How do I reset my password?",
        "Open Settings, choose Security, then Reset password. A mail comes at once.",
    ),
    ("Can you explain compound interest?", "Interest is paid on what you saved and on the interest before."),
    (
        "Write a haiku about autumn",
        "Red leaves let go now\nthe pond keeps each one a while\ncold light on the hill",
    ),
    ("What is the capital of Australia?", "Canberra. Sydney is larger, but it never was the capital."),
    ("كيف أغيّر لغة التطبيق؟", "افتح الإعدادات ثم اختر اللغة."),
]
_REASONS = {"up": ["concise", "friendly", "correct"], "down": ["too-long", "wrong", "off-topic"]}

EVIDENCE: dict[str, Any] = {
    "mode": "canary", "policy": CANARY, "live": LIVE, "voters": 22, "share": 0.2, "automatic": True,
    "decision": "wait", "words": "22 people's votes do not show yet which is better.", "missing": ["errors"],
    "metrics": {
        name: {
            "candidate": 0.82, "other": other, "difference": round(0.82 - other, 2), "error": 0.08,
            "low": low, "high": 0.3, "people": 22, "other_people": 61, "limit": limit, "alpha": 0.04,
            "harmed": name == "regenerations",
        }
        for name, other, low, limit in (
            ("approval", 0.74, -0.16, 0.0), ("regenerations", 0.7, 0.04, 0.02), ("length", 0.9, -0.4, 0.69),
        )
    },
}  # fmt: skip
GATE: dict[str, Any] = {
    "outcome": "unknown",
    "passed": False,
    "reasons": [],
    "doubts": [
        "38 unseen votes do not show that it is no worse than the live policy (0.21 ± 0.19 logits); they"
        " could have shown a difference of 0.48 logits, 12 points of approval"
    ],
    "figures": {
        "trained_gain": 0.52, "trained_error": 0.08, "held_out_gain": 0.31, "held_out_error": 0.16,
        "unseen_votes": 38, "unseen_gain": 0.21, "unseen_error": 0.19, "length": 31.2, "length_ratio": 0.78,
        "ended": 0.99, "base_ended": 0.995, "kl": 4.1, "kl_error": 0.3, "entropy": 1.4, "base_entropy": 1.9,
        "repeated": 0.012, "base_repeated": 0.01, "distinct": 0.41, "base_distinct": 0.46, "alike": 0.03,
        "approval": 0.71, "approval_lower": 0.62, "approval_upper": 0.8, "approval_change": 0.034,
        "approval_change_error": 0.041, "approval_votes": 38, "approval_people": 21,
        "approval_coverage": 0.44,
        "probes": 512, "knowledge": 0.953, "knowledge_lost": 0.006, "knowledge_error": 0.004,
    },
    "checks": {
        name: {"found": found, "limit": limit, "error": error, "state": state}
        for name, found, limit, error, state in (
            ("trained_gain", 0.52, 0.0, 0.08, "good"), ("held_out_gain", 0.31, 0.0, 0.16, "good"),
            ("unseen_gain", 0.21, 0.0, 0.19, "unknown"), ("length_ratio", 0.78, 1 / 3, 0.02, "good"),
            ("kl", 4.1, 10.0, 0.3, "good"), ("ended", 0.99, 0.945, 0.01, "good"),
            ("entropy", 1.4, 0.38, 0.1, "good"), ("repeated", 0.012, 0.11, 0.004, "good"),
            ("distinct", 0.41, 0.184, 0.01, "good"), ("alike", 0.03, 0.25, None, "good"),
            ("approval_change", 0.034, 0.0, 0.041, "good"), ("approval_width", 0.18, 0.5, None, "good"),
            ("knowledge_lost", 0.006, 0.03, 0.004, "good"),
        )
    },
}  # fmt: skip


def person(number: int) -> str:
    """Returns a pseudonym."""
    return "u_" + hashlib.sha256(str(number).encode()).hexdigest()[:32]


def record(weightiest: list[str]) -> dict[str, Any]:
    """A round's record; the votes with these event ids weighed most."""
    steps = [
        {"reward": 0.02 + 0.09 * step, "kl_per_reply": 0.5 * step, "mean_length": 40 - step, "eos_rate": 1.0}
        for step in range(8)
    ]
    return {
        "votes": 180, "parent": LIVE, "examples": 150, "examples_new": 31, "held_out": 38, "prompts": 120,
        "hyperparameters": {
            "max_tokens": {
                "value": 1280, "reason": "of a hundred replies served, one is longer than 1024 tokens",
            },
            "learning_rate": {"value": 0.00042137, "reason": "found by the trust region in the last round"},
        },
        "optimization": {"steps": steps, "stopped": None, "halvings": 0, "learning_rate": 0.0003},
        "style": {
            "live": {"words": 24.1, "sentences": 2.2, "ask a question": 0.31, "exclaim": 0.12},
            "candidate": {"words": 18.7, "sentences": 1.9, "ask a question": 0.12, "exclaim": 0.1},
        },
        "samples": [
            {"prompt": "What is seven times eight?", "before": "That is a great question! It is 56.",
             "after": "56."},
        ],
        "weightiest": [
            {"vote": event, "rater": "u_1", "kind": "thumb", "weight": 0.2 - 0.02 * place}
            for place, event in enumerate(weightiest)
        ],
        "raters": [{"rater": person(9), "votes": 12, "weight": 0.11, "reliability": 0.93,
                    "leniency": -0.12}],
        "gate": GATE, "versions": {"torch": "2.13.0"}, "seconds": 74.0,
    }  # fmt: skip


def fill(url: str) -> None:
    """Fills the project `default`, whose keys there are."""
    draw = random.Random(7)
    with psycopg.connect(url) as connection:
        _add_policies(connection)
        for number in range(TURNS):
            _add_turn(connection, draw, number)
        connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
            " rater, conversation_id, created_at, first_policy)"
            " select event_id, f.project, f.id, turn_id, choice, type, value, f.rater, conversation_id,"
            " f.created_at, case when f.created_at < now() - interval '2 days' then %s"
            " when f.created_at < now() - interval '1 day' then %s end"
            " from feedback f join turns t on t.id = turn_id",
            [LIVE, REFUSED],
        )
        events = [row[0] for row in connection.execute("select event_id from feedback order by id limit 6")]
        _add_rounds(connection, events)
        _add_held(connection)
        _add_erasures(connection)


def _add_erasures(connection: psycopg.Connection) -> None:
    """Two people who were erased: one is through, and of the other the trainer's steps are left."""
    key = Ed25519PrivateKey.generate()
    connection.execute("insert into secrets (name, value) values ('receipts', %s)", [key.private_bytes_raw()])
    at = "2026-11-29T10:00:00.000000Z"
    own = {
        "began": {"at": at}, "database": {"at": at, "turns": 12, "votes": 7},
        "exports": {"at": at, "files": 2},
    }  # fmt: skip
    trained = {
        "records": {"at": at, "rounds": 3}, "policies": {"at": at, "tainted": [LIVE, CANARY]},
        "rebuild": {"at": at, "rebuilt": [POLICIES[4]]}, "files": {"at": at, "deleted": [CANARY]},
    }  # fmt: skip
    said = receipt.sign(
        {
            "format": receipt.FORMAT, "id": ERASED, "project": "default", "person": ["00" * 32],
            "tainted": [{"policy": LIVE, "digest": "ab" * 32}, {"policy": CANARY, "digest": "cd" * 32}],
            "rebuilt": [{"policy": POLICIES[4], "digest": "ef" * 32, "rebuilds": LIVE}],
        },
        key,
    )  # fmt: skip
    for id, asked_by, steps, signed in (
        (ERASED, "visitor", own | trained, said), (ERASING, "default-admin", own, None),
    ):  # fmt: skip
        connection.execute(
            "insert into erasures (id, project, hashes, asked_by, asked_at, since, steps, receipt, done_at)"
            " values (%s, 'default', %s, %s, now() - interval '1 day', now() - interval '9 days', %s, %s,"
            " case when %s then now() end)",
            [id, [id.encode()], asked_by, Jsonb(steps), signed and Jsonb(signed), signed is not None],
        )


def _add_held(connection: psycopg.Connection) -> None:
    """Three raters in quarantine: two wait, one was rejected."""
    network = "a_" + "0" * 32
    connection.execute("update turns set rater = %s where rater = %s", [network, person(HELD[0])])
    connection.execute(
        "update feedback set rater = %s, facets = null where rater = %s", [network, person(HELD[0])]
    )
    burst = {"burst": {"votes": 40, "seconds": 5.5, "usual": 3, "network": False}}
    alike = {
        "raters": 12, "votes": 96, "agreement": 8.31, "chance": 3.07, "hours": 0.5, "others_then": 0.02,
    }  # fmt: skip
    for rater, state, evidence in (
        (network, "held", {**burst, "near_duplicates": {"alike": 9, "votes": 11}}),
        (person(HELD[1]), "held", {"votes_alike": alike}),
        (person(HELD[2]), "rejected", burst),
    ):
        decided = ["key:default-admin", "a bot of ours"] if state == "rejected" else [None, None]
        connection.execute(
            "insert into quarantine (project, rater, state, reason, evidence, created_at, decided_by,"
            " decision_reason, decided_at) values ('default', %s, %s, %s, %s, now() - interval '2 hours',"
            " %s, %s, case when %s::text is null then null else now() end)",
            [rater, state, next(iter(evidence)), Jsonb(evidence), *decided, decided[0]],
        )


def _add_policies(connection: psycopg.Connection) -> None:
    states = dict.fromkeys(POLICIES, "retired") | {LIVE: "live", CANARY: "canary", REFUSED: "rolled_back"}
    parents = [None, "p0", POLICIES[1], POLICIES[1], LIVE, LIVE]
    configuration = {"gate": {"max_knowledge_loss": 0.03}, "rl": {"kl_per_reply": 8.0}}
    for number, (policy, parent) in enumerate(zip(POLICIES, parents, strict=True)):
        connection.execute(
            "insert into policies (project, id, parent, base_digest, directory, digest, manifest, gate,"
            " state, reason, created_at, live_at) values ('default', %s, %s, '', '', '', %s, %s, %s, %s,"
            " now() - make_interval(hours => %s), case when %s then now() - make_interval(hours => %s) end)",
            [policy, parent, Jsonb({"configuration": configuration, "examples": 30 * number}),
             Jsonb(GATE) if parent else None, states[policy],
             "people like it less than p1-4be0aa" if policy == REFUSED else None,
             140 - 20 * number, policy in ("p0", PREVIOUS, LIVE), 139 - 20 * number],
        )  # fmt: skip
    connection.execute(
        "insert into routes (project, live, previous, canary, canary_share)"
        " values ('default', %s, %s, %s, 0.2)",
        [LIVE, PREVIOUS, CANARY],
    )
    for policy, replaces, kind, state, reason, hours in [
        (PREVIOUS, "p0", "direct", "promoted", None, 120),
        (REFUSED, PREVIOUS, "canary", "rolled_back", "people like it less than p1-4be0aa", 100),
        (LIVE, PREVIOUS, "canary", "promoted", "people like it no less than p1-4be0aa: 81% of 16 people", 80),
        (CANARY, LIVE, "canary", "running", None, 40),
    ]:
        connection.execute(
            "insert into rollouts (id, project, policy, replaces, kind, share, state, reason, automatic,"
            " actor, evidence, evaluate_after, started_at, ended_at)"
            " values (%s, 'default', %s, %s, %s, %s, %s, %s, %s, %s, %s, now() + interval '1 day',"
            " now() - make_interval(hours => %s),"
            " case when %s <> 'running' then now() - make_interval(hours => %s) end)",
            [f"rollout-{policy}", policy, replaces, kind, 0.2 if kind == "canary" else 1, state, reason,
             kind == "canary", "people's votes" if kind == "canary" else "serving.promotion",
             Jsonb(EVIDENCE) if state == "running" else None, hours, state, hours - 4],
        )  # fmt: skip


def _add_turn(connection: psycopg.Connection, draw: random.Random, number: int) -> None:
    asked, answered = _ASKED[number % len(_ASKED)]
    age = f"{(TURNS - number) * 36} minutes"
    turn, rater = f"chatcmpl-{number:05}", person(draw.randrange(40))
    policy = (
        draw.choices(["p0", LIVE, CANARY], [1, 6, 3])[0] if number > TURNS - 70 else draw.choice(POLICIES[:4])
    )
    replies = [answered, answered.upper()] if number % 12 == 0 else [answered]
    connection.execute(
        "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
        " sampling, metadata, created_at) values (%s, 'default', %s, %s, 'default-admin', %s, '{1}',"
        " '{\"temperature\": 1}', %s, now() - %s::interval)",
        [turn, f"conv-{number // 2}", rater, Jsonb([{"role": "user", "content": asked}]),
         Jsonb({"team": draw.choice(["web", "app", "support"])}), age],
    )  # fmt: skip
    for choice, text in enumerate(replies):
        connection.execute(
            "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
            " finish_reason) values (%s, %s, 'default', %s, 0.6, %s, '{1}', '{0}', 'stop')",
            [turn, choice, policy, text],
        )
    value = "up" if draw.random() < (0.8 if policy in (LIVE, CANARY) else 0.55) else "down"
    said: tuple[str, dict[str, Any], str | None] = (
        ("ranking", {"ranking": [[1], [0]], "acceptable": True}, None) if len(replies) > 1
        else ("edit", {}, "In one line: " + answered[:20]) if number % 17 == 0
        else ("thumb", {"value": value, "reasons": [draw.choice(_REASONS[value])]}, None)
    )  # fmt: skip
    if number % 9 == 8:
        return  # a turn that nobody voted on
    connection.execute(
        "insert into feedback (id, event_id, project, turn_id, choice, type, value, text, comment, rater,"
        " slot, created_at) values (%s, %s, 'default', %s, %s, %s, %s, %s, %s, %s, 'thumb:0',"
        " now() - %s::interval)",
        [f"fb_{number:05}", f"ev_{number:05}", turn, None if said[0] == "ranking" else 0, said[0],
         Jsonb(said[1]), said[2], "Exactly what I needed, thanks" if number % 11 == 0 else None, rater, age],
    )  # fmt: skip


def _add_rounds(connection: psycopg.Connection, events: list[str]) -> None:
    for number, (policy, outcome, reason) in enumerate([
        (POLICIES[1], "published", None), (REFUSED, "published", None), (LIVE, "published", None),
        (None, "skipped", "no vote can be trained on"), (None, "rejected", "replies repeat themselves"),
        (CANARY, "published", GATE["doubts"][0]),
    ]):  # fmt: skip
        whole = record(events) if outcome != "skipped" else {}
        if outcome == "rejected":
            whole["gate"] = {**GATE, "outcome": "refused", "reasons": ["replies repeat themselves"]}
        connection.execute(
            "insert into rounds (project, parent, policy, outcome, reason, record, started_at, ended_at)"
            " values ('default', %s, %s, %s, %s, %s, now() - make_interval(hours => %s),"
            " now() - make_interval(hours => %s) + interval '74 seconds')",
            [LIVE, policy, outcome, reason, Jsonb(whole), 130 - 20 * number, 130 - 20 * number],
        )
    connection.execute(
        "insert into rounds (project, parent, outcome, progress, started_at) values"
        """ ('default', %s, 'running', '{"phase": "optimizing", "done": 3, "steps": 8}',"""
        " now() - interval '40 seconds')",
        [LIVE],
    )
