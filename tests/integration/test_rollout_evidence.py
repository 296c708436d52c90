"""What people did with a candidate's replies is read from Postgres, and decides its rollout once."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from feedback.store import Store
from schemas.database import AsyncPool
from schemas.errors import Conflict
from schemas.settings import ServingSettings
from serving import rollout, rollout_controller, rollout_evidence
from serving.console.rollouts import preview, rollouts
from serving.rollout_controller import Decided
from serving.rollout_decision import MIN_PEOPLE, Evidence
from serving.router import Route, fetch_route

P1, P2, P3, P4 = "p1-aaaaaa", "p2-bbbbbb", "p3-cccccc", "p4-dddddd"
Connection = AsyncConnection[DictRow]
SERVING = ServingSettings(canary_share=0.3)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Yields a connection. p1 is live; p2 to p4 are candidates that the gate could not judge, each trained
    from the one before."""
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        await connection.execute(
            "insert into keys (id, project, kind, hash) values ('key', 'default', 'admin', 'x')"
        )
        before: str | None = None
        for number, policy in enumerate(("p0", P1, P2, P3, P4)):
            live = {"p0": "retired", P1: "live"}.get(policy)
            await connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, gate,"
                " state, created_at, live_at)"
                " values ('default', %s, %s, '', '', '', '{}', '{\"outcome\": \"unknown\"}', %s,"
                " now() - make_interval(mins => %s), case when %s then now() end)",
                [policy, before, live or "published", 60 - number, live is not None],
            )
            before = policy
        await connection.execute(
            "insert into routes (project, live, previous) values ('default', %s, 'p0')", [P1]
        )
        yield connection


async def turn(
    connection: Connection,
    replies: list[tuple[str, float]],
    *,
    rater: str = "",
    origin: str | None = None,
    conversation: str | None = None,
    ago: float = 0.0,
    tokens: int = 5,
    seconds: float = 1.0,
) -> str:
    """Stores a turn with a reply for each policy and propensity; returns its id."""
    moment = int((time.time() - ago) * 1_000)
    id = f"chatcmpl-t{moment:012x}{secrets.token_hex(10)}"
    rater = rater or f"u_{secrets.token_hex(6)}"
    await connection.execute(
        "insert into turns (id, project, conversation_id, rater, origin, key_id, messages, prompt_token_ids,"
        " sampling, created_at)"
        " values (%s, 'default', %s, %s, %s, 'key', '[]', '{1}', '{}', to_timestamp(%s))",
        [id, conversation or id, rater, origin, moment / 1_000],
    )
    for choice, (policy, propensity) in enumerate(replies):
        await connection.execute(
            "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
            " finish_reason, seconds) values (%s, %s, 'default', %s, %s, 'Hi', %s, '{0}', 'stop', %s)",
            [id, choice, policy, propensity, [1] * tokens, seconds],
        )
    return id


async def say(
    connection: Connection, id: str, type: str, value: dict[str, Any], rater: str = "u_voter", ago: float = 0
) -> None:
    """Stores feedback on the first reply of a turn."""
    await connection.execute(
        "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot, created_at)"
        " values (%s, %s, 'default', %s, %s, %s, %s, %s, %s, now() - make_interval(secs => %s))",
        [f"fb_{id}{type}", f"ev_{id}{type}", id, None if type == "ranking" else 0, type, Jsonb(value), rater,
         type, ago],
    )  # fmt: skip


async def vote(
    connection: Connection,
    policy: str,
    *,
    up: bool,
    propensity: float = 0.3,
    by: str = "u_voter",
    **given: Any,
) -> str:
    """Stores a turn of one reply with a thumb; returns its id."""
    id = await turn(connection, [(policy, propensity)], **given)
    await say(connection, id, "thumb", {"value": "up" if up else "down"}, by, given.get("ago", 0))
    return id


async def votes(connection: Connection, count: int, liked: dict[str, float]) -> None:
    """Stores `count` votes by as many people on each policy, of which a share is up."""
    for policy, share in liked.items():
        for number in range(count):
            await vote(connection, policy, up=number < share * count)


async def start(connection: Connection, policy: str = P2, serving: ServingSettings = SERVING) -> Route:
    """Starts a trial that began a minute ago."""
    route = await rollout_controller.start(connection, "default", policy, serving)
    await earlier(connection)
    return route


async def earlier(connection: Connection, seconds: float = 60) -> None:
    """Makes what is running have begun earlier."""
    await connection.execute(
        "update rollouts set stages = jsonb_build_array(jsonb_build_object('share', share, 'since',"
        " now() - make_interval(secs => %s))), evaluate_after = now() where state = 'running'",
        [seconds],
    )


async def decided(connection: Connection, serving: ServingSettings = SERVING) -> Decided | None:
    """Evaluates what is running, as the process that claims it does."""
    await connection.execute("update rollouts set evaluate_after = now() where evaluate_after is not null")
    [found] = await rollout_controller.claim(connection)
    return await rollout_controller.evaluate(connection, found, serving)


async def evidence(connection: Connection, base_share: float = 0.02) -> Evidence:
    await connection.execute("update rollouts set evaluate_after = now() where evaluate_after is not null")
    [found] = await rollout_controller.claim(connection)
    route = await fetch_route(connection, "default")
    return await rollout_evidence.fetch(connection, found, route, base_share)


async def recorded(connection: Connection) -> DictRow:
    row = await (await connection.execute("select * from rollouts order by started_at desc")).fetchone()
    assert row is not None
    return row


async def states(connection: Connection) -> dict[str, tuple[str, str | None]]:
    cursor = await connection.execute("select id, state, reason from policies")
    return {row["id"]: (row["state"], row["reason"]) for row in await cursor.fetchall()}


async def test_only_drawn_policies_and_peoples_thumbs_since_the_start_count(connection: Connection) -> None:
    await start(connection)
    await vote(connection, P2, up=True, ago=300)
    await vote(connection, P2, up=True, conversation="one", rater="u_one")
    await vote(connection, P2, up=False, conversation="one", rater="u_one")
    await vote(connection, P2, up=True, conversation="two", rater="u_one")
    await vote(connection, P1, up=False)
    await vote(connection, "p0", up=True, propensity=0.02)
    await vote(connection, P2, up=False, propensity=1.0)
    await vote(connection, P2, up=False, by="judge:strict")
    await vote(connection, P3, up=False)
    await vote(connection, P2, up=False, by="u_held")
    await connection.execute(
        "insert into quarantine (project, rater, reason) values ('default', 'u_held', 'burst')"
    )
    retracted = await vote(connection, P2, up=False)
    await connection.execute("update feedback set retracted_at = now() where turn_id = %s", [retracted])
    found = await evidence(connection)
    approval, holdback = found.comparisons["approval"], found.comparisons["holdback"]
    assert approval is not None
    assert holdback is not None
    assert (approval.people, approval.candidate, approval.other) == (1, 0.75, 0.0)
    assert (holdback.other_people, holdback.other) == (1, 1.0)


async def test_regenerations_failures_times_and_lengths_are_compared_by_person(
    connection: Connection,
) -> None:
    await start(connection)
    for number in range(4):
        id = await turn(connection, [(P2, 0.3)], tokens=9, seconds=4.0)
        if number == 0:
            await say(connection, id, "signal", {"signal": "regenerated"})
        await turn(connection, [(P1, 0.68)], tokens=9, seconds=1.0)
    await connection.execute(
        "insert into rollout_failures (project, policy, rater) values ('default', %s, 'u_other')", [P2]
    )
    found = (await evidence(connection)).comparisons
    shown = {name: round(each.difference, 3) for name, each in found.items() if each is not None}
    assert shown == {"regenerations": 0.25, "latency": 1.386, "length": 0.0, "errors": 0.2}


@pytest.mark.parametrize(("networks", "people", "action"), [(1, 1, None), (30, 30, "promote")])
async def test_the_sessions_of_one_network_are_one_person_in_a_canary(
    connection: Connection, networks: int, people: int, action: str | None
) -> None:
    """A browser opens sixty sessions, and likes whatever the candidate says; in networks of their own they
    would be people."""
    await start(connection)
    await connection.execute("update routes set canary_share = 0.5")
    for number in range(60):
        policy = P2 if number % 2 else P1
        origin = f"network-{number // 2 % networks}"
        await vote(connection, policy, up=policy == P2, propensity=0.5, rater=f"v_{number}", origin=origin)
        await connection.execute(
            "insert into rollout_failures (project, policy, rater, origin) values ('default', %s, %s, %s)",
            [policy, f"v_{number}", origin],
        )
    found = await evidence(connection, 0)
    for name in ("approval", "errors", "latency"):
        comparison = found.comparisons[name]
        assert comparison is not None
        assert (comparison.people, comparison.other_people) == (people, people), name
    assert found.stage_people == people
    ended = await decided(connection, ServingSettings(base_share=0))
    assert (ended and ended.action) == action


@pytest.mark.parametrize(("networks", "action"), [(1, None), (40, "promote")])
async def test_the_sessions_of_one_network_are_one_person_in_a_duel(
    connection: Connection, networks: int, action: str | None
) -> None:
    duel = ServingSettings(promotion="duel")
    await start(connection, P4, duel)
    for number in range(40):
        pair = [(P4, 0.49), (P1, 0.49)] if number % 2 else [(P1, 0.49), (P4, 0.49)]
        id = await turn(connection, pair, rater=f"v_{number}", origin=f"network-{number % networks}")
        best = 0 if number % 2 else 1
        await say(connection, id, "ranking", {"ranking": [[best], [1 - best]], "acceptable": True})
    wins = (await evidence(connection)).comparisons["wins"]
    assert wins is not None
    assert (wins.people, wins.candidate) == (networks, 1.0)
    ended = await decided(connection, duel)
    assert (ended and ended.action) == action


async def test_one_network_cannot_end_a_canary_by_who_arrives(connection: Connection) -> None:
    """Whoever sees whose reply a session gets lets only those of the candidate be stored."""
    await start(connection)
    for number in range(100):
        await turn(connection, [(P2 if number < 30 else P1, 0.3)])
    assert (await evidence(connection, 0)).mismatch < 0
    for number in range(200):
        await turn(connection, [(P2, 0.3)], rater=f"v_{number}", origin="network")
    assert (await evidence(connection, 0)).mismatch < 0
    assert await decided(connection, ServingSettings(base_share=0)) is None


async def test_what_recorded_votes_let_expect_is_told_before_and_during_a_trial(
    connection: Connection,
) -> None:
    """Where the gate could not estimate it, nothing is."""
    estimate = {"approval": 0.7, "approval_lower": 0.6, "approval_people": 9}
    for policy, figures in ((P2, {**estimate, "length": 30}), (P3, {"approval": None, "length": 30})):
        await connection.execute(
            "update policies set gate = %s where id = %s",
            [Jsonb({"outcome": "unknown", "figures": figures}), policy],
        )
    told = {
        policy: (await preview(connection, "default", "start", policy, 0.02))["estimate"]
        for policy in (P2, P3, P4)
    }
    assert told == {P2: estimate, P3: None, P4: None}
    await start(connection)
    assert [each["estimate"] for each in await rollouts(connection, "default")] == [estimate]


async def test_people_who_do_not_arrive_are_noticed(connection: Connection) -> None:
    await start(connection)
    for _ in range(90):
        await turn(connection, [(P1, 0.68)])
    assert (await evidence(connection)).mismatch > 7
    ended = await decided(connection)
    assert ended is not None
    assert (ended.action, ended.route.canary) == ("end", None)
    assert "sample-ratio mismatch" in ended.reason
    assert (await states(connection))[P2][0] == "retired"


async def test_votes_promote_a_canary_and_what_its_ancestors_learned_is_live(
    connection: Connection, async_pool: AsyncPool
) -> None:
    await connection.execute("update policies set state = 'retired' where id = %s", [P2])
    await start(connection, P3)
    await votes(connection, 14, {P3: 1.0})
    await votes(connection, 30, {P1: 0.0})
    ended = await decided(connection)
    assert ended is not None
    assert (ended.action, ended.route.live, ended.route.previous, ended.route.canary) == (
        "promote", P3, P1, None,
    )  # fmt: skip
    row = await recorded(connection)
    assert (row["state"], row["reason"], row["automatic"], row["actor"]) == (
        "promoted", ended.reason, True, rollout_controller.ACTOR,
    )  # fmt: skip
    assert row["evidence"]["metrics"]["approval"]["people"] == 14
    assert (row["evidence"]["decision"], row["evaluate_after"]) == ("promote", None)
    cursor = await connection.execute("select id from policies where inherited_at is not null")
    assert await cursor.fetchall() == [{"id": P2}]
    await connection.execute(
        "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
        " conversation_id, created_at, first_policy)"
        " select event_id, project, id, turn_id, type, value, rater, 'c', now(), %s from feedback limit 1",
        [P2],
    )
    learned = await (await connection.execute("select feedback_id from training_examples")).fetchone()
    assert learned is not None
    found = await Store(async_pool).find(learned["feedback_id"])
    assert found is not None
    assert found.policy == P2
    assert found.live_at is not None


async def test_votes_roll_a_canary_back_and_its_descendants_with_it(connection: Connection) -> None:
    await start(connection)
    await votes(connection, 14, {P2: 0.0})
    await votes(connection, 30, {P1: 1.0})
    ended = await decided(connection)
    assert ended is not None
    assert (ended.action, ended.route.live, ended.route.canary) == ("rollback", P1, None)
    assert (await states(connection))[P2][0] == "rolled_back"
    assert await rollout_controller.next_candidate(connection, "default", every=False) == P4
    with pytest.raises(rollout.PolicyRejected, match=f"{P4} was trained from {P2}"):
        await rollout_controller.start(connection, "default", P4, SERVING)


async def test_without_a_decision_it_goes_on_until_one_from_twice_as_many_votes_takes_its_place(
    connection: Connection,
) -> None:
    await connection.execute("update policies set state = 'retired' where id in (%s, %s)", [P3, P4])
    await start(connection)
    await votes(connection, 2 * MIN_PEOPLE, {P2: 0.5, P1: 0.5})
    await connection.execute("update replies set propensity = 0.5")
    half = ServingSettings(canary_share=0.5, base_share=0)
    await connection.execute("update routes set canary_share = 0.5")
    assert await decided(connection, half) is None
    assert "do not show yet" in (await recorded(connection))["evidence"]["words"]
    await connection.execute("update policies set state = 'published' where id = %s", [P4])
    for policy, count in ((P2, 40), (P4, 79)):
        await connection.execute(
            "insert into rounds (project, parent, policy, outcome, record)"
            " values ('default', 'p0', %s, 'published', jsonb_build_object('votes', %s::int))",
            [policy, count],
        )
    assert await decided(connection, half) is None
    await connection.execute("update rounds set record = '{\"votes\": 80}' where policy = %s", [P4])
    ended = await decided(connection, half)
    assert ended is not None
    assert (ended.action, ended.route.canary, ended.route.canary_share) == ("end", None, 0)
    assert (await states(connection))[P2] == ("retired", ended.reason)
    assert (await recorded(connection))["state"] == "ended"
    assert (await rollout_controller.start(connection, "default", P4, SERVING)).canary == P4


async def test_a_share_grows_in_stages_and_each_is_compared_with_its_own_time(connection: Connection) -> None:
    canary = ServingSettings(promotion="canary", base_share=0)
    await start(connection, P4, canary)
    for _ in range(5):
        await vote(connection, P4, up=True, propensity=0.05, ago=30)
    for _ in range(95):
        await vote(connection, P1, up=True, propensity=0.95, ago=30)
    await earlier(connection, 700)
    grown = await decided(connection, canary)
    assert grown is not None
    assert (grown.action, grown.route.canary_share) == ("advance", 0.2)
    row = await recorded(connection)
    assert [stage["share"] for stage in row["stages"]] == [0.05, 0.2]
    assert row["share"] == 0.2
    await connection.execute(
        "update rollouts set stages = jsonb_set(stages, '{1,since}', to_jsonb(now() - interval '20 s'))"
    )
    for number in range(20):
        await vote(connection, P4 if number < 4 else P1, up=False, propensity=0.2 if number < 4 else 0.8)
    approval = (await evidence(connection, 0)).comparisons["approval"]
    assert approval is not None
    assert approval.difference == pytest.approx(0)  # everybody likes less than before
    assert approval.candidate != approval.other


async def test_rankings_decide_a_duel(connection: Connection) -> None:
    duel = ServingSettings(promotion="duel")
    route = await start(connection, P4, duel)
    assert route.duels
    assert (route.canary_share, route.duel_share) == (0, 1)
    for number in range(40):
        pair = [(P4, 0.49), (P1, 0.49)] if number % 2 else [(P1, 0.49), (P4, 0.49)]
        id = await turn(connection, pair)
        best = 0 if number % 2 else 1
        ranking = [[0, 1]] if number % 10 == 0 else [[best], [1 - best]]
        await say(connection, id, "ranking", {"ranking": ranking, "acceptable": True})
        held = await turn(connection, pair)
        lost = {"ranking": [[1 - best], [best]], "acceptable": True}
        await say(connection, held, "ranking", lost, "u_held")
    await connection.execute(
        "insert into quarantine (project, rater, reason) values ('default', 'u_held', 'burst')"
    )
    ended = await decided(connection, duel)
    assert ended is not None
    assert (ended.action, ended.route.live, ended.route.duel_share) == ("promote", P4, 0)
    shown = (await recorded(connection))["evidence"]
    assert shown["metrics"]["wins"]["candidate"] == 0.95
    assert (shown["metrics"]["length"]["difference"], shown["missing"]) == (0, [])


async def test_what_went_live_at_once_is_watched_and_taken_back(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_evidence, "MAX_VOTES", 40)  # as many as there are from before
    for _ in range(40):
        await vote(connection, P1, up=True, propensity=0.98, ago=3_600)
    await rollout.promote(connection, "default", P2, automatic=True)
    await connection.execute("update rollouts set ended_at = now() - interval '1 minute'")
    await votes(connection, 10, {P2: 0.5})
    assert await decided(connection) is None
    assert (await recorded(connection))["evidence"]["words"].startswith("It is live, and watched")
    await votes(connection, 30, {P2: 0.0})
    ended = await decided(connection)
    assert ended is not None
    assert (ended.action, ended.route.live) == ("rollback", P1)
    assert (await states(connection))[P2][0] == "rolled_back"


async def test_what_an_operator_promoted_is_not_taken_back_by_votes(connection: Connection) -> None:
    await rollout.promote(connection, "default", P2, "we want it", actor="key")
    assert await rollout_controller.claim(connection) == []
    row = await recorded(connection)
    assert (row["actor"], row["reason"]) == ("key", "we want it")


async def test_a_decision_is_made_once(connection: Connection, database_url: str) -> None:
    """Two processes that have read the same evidence act on it once."""
    await start(connection)
    await votes(connection, 14, {P2: 1.0})
    await votes(connection, 30, {P1: 0.0})
    await connection.execute("update rollouts set evaluate_after = null")  # as the release before leaves it
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as other:
        claims = await asyncio.gather(rollout_controller.claim(connection), rollout_controller.claim(other))
        assert sorted(len(each) for each in claims) == [0, 1]
        [found] = claims[0] or claims[1]
        ended = await asyncio.gather(
            *(rollout_controller.evaluate(each, found, SERVING) for each in (connection, other))
        )
    assert [each.action for each in ended if each is not None] == ["promote"]
    assert (await fetch_route(connection, "default")).version == 3


async def test_only_the_newest_candidate_waits_and_only_if_it_is_newer_than_the_live_policy(
    connection: Connection,
) -> None:
    assert await rollout_controller.next_candidate(connection, "default", every=False) == P4
    assert [state for state, _ in (await states(connection)).values()].count("retired") == 3
    await connection.execute("update policies set created_at = now() where id = %s", [P1])
    assert await rollout_controller.next_candidate(connection, "default", every=False) is None
    assert (await states(connection))[P4][0] == "retired"


async def test_a_candidate_that_is_published_while_the_older_ones_are_retired_goes_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("update policies set state = 'rejected' where id = %s", [P4])
    execute = connection.execute

    async def meanwhile(*words: Any) -> Any:
        found = await execute(*words)
        await execute("update policies set state = 'published' where id = %s and state = 'rejected'", [P4])
        return found

    monkeypatch.setattr(connection, "execute", meanwhile)
    assert await rollout_controller.next_candidate(connection, "default", every=False) == P3
    assert (await states(connection))[P4][0] == "published"
    assert await rollout_controller.next_candidate(connection, "default", every=False) == P4


async def test_where_people_try_all_one_that_passed_the_gate_waits_too(connection: Connection) -> None:
    await connection.execute('update policies set gate = \'{"outcome": "passed"}\'')
    assert await rollout_controller.next_candidate(connection, "default", every=False) is None
    assert await rollout_controller.next_candidate(connection, "default", every=True) == P4


async def test_an_automatic_trial_ends_when_another_policy_goes_live(connection: Connection) -> None:
    await start(connection)
    changed = await rollout.promote(connection, "default", P4)
    assert (changed.live, changed.canary) == (P4, None)
    assert (await states(connection))[P2] == ("retired", "another policy went live")
    assert (await rollout.rollback(connection, "default", "no")).live == P1


async def test_a_policy_that_never_was_live_is_nobodys_previous(connection: Connection) -> None:
    await start(connection)
    await rollout.promote(connection, "default", P4)
    await connection.execute("update policies set state = 'retired' where id = %s", [P3])
    await connection.execute("insert into policies (project, id, parent, base_digest, directory, digest,"
                             " manifest, state) values ('default', 'p5-eeeeee', %s, '', '', '', '{}',"
                             " 'published')", [P4])  # fmt: skip
    await rollout.promote(connection, "default", "p5-eeeeee")
    taken = await rollout.rollback(connection, "default", "no")
    assert (taken.live, taken.previous) == (P4, P1)


async def test_an_evaluation_is_no_entry_of_the_audit_log(connection: Connection) -> None:
    async def entries() -> list[DictRow]:
        cursor = await connection.execute(
            "select action, details from audit_log where target like 'rollout%'"
        )
        return await cursor.fetchall()

    await start(connection)
    before = await entries()
    assert [each["action"] for each in before] == ["rollout.created"]
    await vote(connection, P2, up=True)
    assert await decided(connection) is None
    assert (await recorded(connection))["evidence"] is not None
    assert await entries() == before


async def test_an_operators_canary_is_judged_but_not_ended(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.3)
    await earlier(connection)
    await votes(connection, 14, {P2: 0.0})
    await votes(connection, 30, {P1: 1.0})
    assert await decided(connection) is None
    assert "people like it less" in (await recorded(connection))["evidence"]["words"]
    assert (await rollout.promote(connection, "default", P4)).canary == P2
    with pytest.raises(Conflict, match="a canary already"):
        await rollout_controller.start(connection, "default", P3, SERVING)
