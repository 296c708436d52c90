"""Candidates are tried by canaries and duels; people's votes, operators and failures end a trial."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from schemas.errors import EngineError
from serving.engine import EngineClient
from serving.hard_failure import PEOPLE
from tests.service import ADMIN, PUBLIC, Service, events, policy_of_adapter
from tests.swapping import ASK, SHOP, another_project, followed


def test_a_canary_answers_its_share_until_it_is_promoted(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        created = client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "share": 0.5})
        assert created.status_code == 201
        rollout_id = created.json()["id"]
        policies = [swapping.chat(max_tokens=1)["system_fingerprint"] for _ in range(24)]
        assert set(policies) == {"p0", "p1-aaaaaa"}
        [(propensity,)] = swapping.rows("select distinct propensity from replies where policy = 'p1-aaaaaa'")
        assert propensity == 0.5
        assert client.post("/v1/rollouts", json={"policy": "p0", "share": 0.5}).status_code == 409
        promoted = client.post(f"/v1/rollouts/{rollout_id}/promote").json()
    assert promoted["state"] == "promoted"
    assert {swapping.chat(max_tokens=1)["system_fingerprint"] for _ in range(8)} == {"p1-aaaaaa"}


@pytest.mark.parametrize("swapping", ["direct", "canary"], indirect=True)
def test_a_person_keeps_a_policy_or_with_direct_promotion_each_conversation_does(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "share": 0.5}).raise_for_status()

    def answered() -> list[str]:
        named = ({"conversation_id": f"c{number}"} for number in range(20))
        return [
            swapping.chat(max_tokens=1, user="ada", metadata=each)["system_fingerprint"] for each in named
        ]

    found = answered()
    direct = swapping.settings.serving.promotion == "direct"
    assert len(set(found)) == (2 if direct else 1)
    assert answered() == found


def people_like_p1(service: Service, key: str = ADMIN, project: str = "default") -> None:
    """Lets people vote for the canary p1 and against the base, until they have put it live."""
    live = "select live from routes where project = %s"
    with service.client(key) as client:
        while service.rows(live, project) != [("p1-aaaaaa",)]:
            reply = service.chat(key=key, max_tokens=1)
            value = "up" if reply["system_fingerprint"] == "p1-aaaaaa" else "down"
            vote = {"completion_id": reply["id"], "type": "thumb", "value": value}
            assert client.post("/v1/feedback", json=vote).status_code == 201


def test_what_the_gate_could_not_judge_is_tried_and_people_decide(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa")[0] == "canary")
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p1-aaaaaa", outcome="unknown")
    swapping.registry.publish("p3-cccccc", seed=3, parent="p2-bbbbbb", outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb")[0] == "retired")
    assert swapping.live() == "p0"
    assert swapping.registry.state("p3-cccccc") == ("published", None)

    people_like_p1(swapping)
    with swapping.client() as client:
        swapping.until(lambda: swapping.live() == "p1-aaaaaa")
        rollouts = client.get("/v1/rollouts").json()["data"]
    assert swapping.registry.state("p1-aaaaaa") == ("live", None)
    promoted = next(each for each in rollouts if each["policy"] == "p1-aaaaaa")
    assert (promoted["state"], promoted["kind"], promoted["automatic"]) == ("promoted", "canary", True)
    assert "people find it better than p0" in promoted["reason"]
    assert promoted["evidence"]["metrics"]["approval"]["difference"] > 0.5
    swapping.until(lambda: swapping.registry.state("p3-cccccc")[0] == "canary")


@pytest.mark.parametrize("swapping", ["duel"], indirect=True)
def test_a_duel_shows_both_policies_blind_and_rankings_promote(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="passed")
    swapping.until(lambda: swapping.rows("select duel_share from routes") == [(1.0,)])
    swapping.until(lambda: swapping.services.router.route("default").duels)
    assert swapping.chat(max_tokens=1)["hearken"]["policies"] == ["p0"]
    assert swapping.chat(max_tokens=1, n=3)["hearken"]["policies"] == ["p0"] * 3

    alone = {policy: swapping.chat(model=policy)["choices"][0] for policy in ("p0", "p1-aaaaaa")}
    votes = []
    with swapping.client() as operator:
        server = operator.post("/v1/keys", json={"name": "a server", "kind": "secret"}).json()["key"]
    with swapping.client(PUBLIC) as client:
        for number in range(24):
            pair = swapping.chat(key=server, n=2, user=f"visitor {number}")
            assert pair["system_fingerprint"] == "p0+p1-aaaaaa"
            assert pair["hearken"]["policies"] == []
            drawn = swapping.rows(
                "select policy, propensity, seconds > 0 from replies where turn_id = %s order by choice",
                pair["id"],
            )
            assert sorted(drawn) == [("p0", 0.5, True), ("p1-aaaaaa", 0.5, True)]
            texts = [choice["message"]["content"] for choice in pair["choices"]]
            assert texts == [alone[policy]["message"]["content"] for policy, _, _ in drawn]
            best = [policy for policy, _, _ in drawn].index("p1-aaaaaa")
            vote = {
                "completion_id": pair["id"],
                "type": "ranking",
                "ranking": [[best], [1 - best]],
                "feedback_token": pair["hearken"]["feedback_token"],
            }
            votes.append(vote)
        assert len({str(vote["ranking"]) for vote in votes}) == 2  # either may be the first
        assert {client.post("/v1/feedback", json=vote).status_code for vote in votes} == {201}
    swapping.until(lambda: swapping.live() == "p1-aaaaaa")
    with swapping.client() as client:
        newest = client.get("/v1/rollouts").json()["data"][0]
    assert (newest["kind"], newest["state"]) == ("duel", "promoted")
    assert "of the duels of" in newest["reason"]


def test_a_duel_is_streamed_as_both_replies_come(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        begun = client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "mode": "duel", "share": 1.0})
        assert begun.status_code == 201
        body = {"model": "default", **ASK, "n": 2, "stream": True, "max_tokens": 6, "temperature": 0}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = list(events(response))
        texts = ["", ""]
        for chunk in chunks:
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
        extension = chunks[-1]["hearken"]
        assert sorted(extension["policies"]) == ["p0", "p1-aaaaaa"]  # an admin sees whose they are
        stored = swapping.rows("select text from replies where turn_id = %s order by choice", chunks[0]["id"])
        assert texts == [text for (text,) in stored]


def test_half_of_the_messages_that_are_looked_at_become_duels(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        begun = client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "mode": "duel", "share": 1.0})
        assert begun.status_code == 201
    replies = [swapping.chat(user=f"guest {number}", compare=0.5, temperature=1) for number in range(24)]
    fingerprints = [reply["system_fingerprint"] for reply in replies]
    assert set(fingerprints) == {"p0", "p0+p1-aaaaaa"}
    assert [len(reply["choices"]) for reply in replies] == [1 + ("+" in each) for each in fingerprints]
    pairs = swapping.rows("select request -> 'pair' from turns where request ? 'pair'")
    assert [pair["propensity"] for (pair,) in pairs] == [0.5] * 24


def test_a_candidate_that_fails_has_no_traffic_soon_afterwards(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: served_canary(swapping, ADMIN))
    stream = EngineClient.stream

    async def failing(engine: EngineClient, adapter: str, *rest: Any) -> AsyncGenerator[Any]:
        if policy_of_adapter(adapter) == "p1-aaaaaa":
            raise EngineError("out of memory", url=engine.url, status=500)
        async for delta in stream(engine, adapter, *rest):
            yield delta

    monkeypatch.setattr(EngineClient, "stream", failing)
    failed = 0
    body = {"model": "default", **ASK, "max_tokens": 1}
    with swapping.client() as client:
        while swapping.services.router.route("default").canary is not None:
            failed += client.post("/v1/chat/completions", json=body).status_code == 503
            assert failed < 4 * PEOPLE
        assert failed >= PEOPLE
        assert [client.post("/v1/chat/completions", json=body).status_code for _ in range(8)] == [200] * 8
        newest = client.get("/v1/rollouts").json()["data"][0]
    assert (newest["state"], newest["actor"]) == ("ended", "hard failure")
    assert newest["reason"].startswith(f"a hard failure: {PEOPLE} requests of {PEOPLE} people")
    assert swapping.registry.state("p1-aaaaaa")[0] == "retired"


async def test_a_candidate_goes_with_the_canary_that_it_was_trained_from(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa")[0] == "canary")
    for number, name in enumerate(["p2-bbbbbb", "p3-cccccc"], 1):
        parent = ["p1-aaaaaa", "p2-bbbbbb"][number - 1]
        swapping.registry.publish(name, seed=1 + number, parent=parent, outcome="unknown")
    with swapping.client() as client:
        newest = client.get("/v1/rollouts").json()["data"][0]
        assert client.post(f"/v1/rollouts/{newest['id']}/rollback").status_code == 200
    swapping.until(lambda: swapping.registry.state("p3-cccccc")[0] == "rejected")
    assert swapping.registry.state("p3-cccccc")[1] == "parent_rolled_back"
    assert swapping.rows("select live, canary from routes") == [("p0", None)]


def test_the_canaries_of_all_projects_are_judged(swapping: Service) -> None:
    for registry in (swapping.registry, another_project(swapping)):
        registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    canaries = "select count(*) from routes where canary = 'p1-aaaaaa'"
    swapping.until(lambda: swapping.rows(canaries) == [(2,)])
    for key, project in ((ADMIN, "default"), (SHOP, "shop")):
        people_like_p1(swapping, key, project)


def served_canary(service: Service, key: str) -> bool:
    """Returns whether the project's canary has answered somebody."""
    return bool(service.chat(key=key, max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")


@pytest.mark.parametrize("swapping", ["manual"], indirect=True)
def test_with_manual_promotion_operators_decide(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.registry.publish("p2-bbbbbb", seed=2, outcome="unknown")
    followed(swapping)
    assert swapping.registry.state("p1-aaaaaa") == ("published", None)
    assert swapping.rows("select live, canary from routes") == [("p0", None)]
