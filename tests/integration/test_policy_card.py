"""A policy's card says in aggregate what it learned from, for everybody only where the project says so."""

import httpx
import psycopg

from schemas.database import open_async_pool
from tests import console_data
from tests.console_data import LIVE
from tests.voting import ADMIN, add_keys, serve_votes


async def test_a_card_counts_people_and_names_nobody(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
    console_data.fill(database_url)
    with psycopg.connect(database_url) as connection:
        kinds = connection.execute(
            "select type, coalesce(value ->> 'value', value ->> 'signal'), count(*), count(distinct rater)"
            " from training_examples where first_policy = %s group by 1, 2",
            [LIVE],
        ).fetchall()
        connection.execute(
            "update rollouts set automatic = false, reason = 'Bob asked' where policy = %s", [LIVE]
        )
    admin = {"Authorization": f"Bearer {ADMIN}"}
    async with serve_votes(database_url) as url, httpx.AsyncClient(base_url=url) as client:
        card = (await client.get(f"/v1/policies/{LIVE}/card", headers=admin)).json()
        counted = {(each["type"], each["value"]): each["votes"] for each in card["learned_from"]["kinds"]}
        assert counted == {(type, value): votes for type, value, votes, people in kinds if people >= 5}
        assert counted.keys() >= {("thumb", "up"), ("thumb", "down")}
        assert card["learned_from"]["votes"] == sum(votes for _, _, votes, _ in kinds)
        assert card["lineage"][-1] == "p0"
        assert card["checks"]

        public = f"/cards/default/{LIVE}"
        hidden = [await client.get(path) for path in (public, "/cards/default/p99", "/cards/other/p0")]
        assert [(each.status_code, each.json()["error"]["code"]) for each in hidden] == [
            (404, "card_not_found")
        ] * 3
        await client.patch("/v1/projects/default", json={"public_cards": True}, headers=admin)
        shown = await client.get(public)
        assert (shown.status_code, (await client.get("/cards/default/p99")).status_code) == (200, 404)
        assert f"# Policy {LIVE}" in shown.text
        assert f"{card['learned_from']['people']} people" in shown.text
        assert "Opt out" in shown.text
        assert "Bob" not in shown.text
        assert "u_" not in shown.text
        live = await client.get("/cards/default", headers={"Accept": "text/html,*/*"})
        assert live.headers["content-type"].startswith("text/html")
        assert f"<h1>Policy {LIVE}</h1>" in live.text
        widget = (await client.get("/v1/widget", headers=admin)).json()
        assert widget["card"] == "/cards/default"

        with psycopg.connect(database_url) as connection:
            connection.execute("update feedback set origin = 'network' where value ->> 'value' = 'down'")
            connection.execute("delete from feedback where value ->> 'value' = 'up'")  # past their retention
        card = (await client.get(f"/v1/policies/{LIVE}/card", headers=admin)).json()
        shown_kinds = {(each["type"], each["value"]) for each in card["learned_from"]["kinds"]}
        assert shown_kinds == counted.keys() - {("thumb", "up"), ("thumb", "down")}
        with psycopg.connect(database_url) as connection:
            connection.execute("update feedback set origin = 'network'")
        card = (await client.get(f"/v1/policies/{LIVE}/card", headers=admin)).json()
        assert card["learned_from"] == {"votes": None, "people": None, "kinds": []}
