"""Prompts that many people send may be shown to others, and nobody can be many people."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from feedback.store import Store
from schemas.database import AsyncPool
from schemas.turns import new_id
from serving.question_pool import SEVERAL, _prompts
from tests.voting import a_turn


async def test_a_prompt_is_common_if_people_of_several_networks_sent_it(async_pool: AsyncPool) -> None:
    store, parts = Store(async_pool), SimpleNamespace(pool=async_pool)

    async def send(prompt: str, rater: str, origin: str | None) -> None:
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        await store.record_turn(replace(a_turn(new_id(), rater=rater), messages=messages, origin=origin))

    for number in range(SEVERAL):
        await send("from one browser", f"v_{number}", "one network")
        await send("from everywhere", f"v_{number + 10}", f"network {number}")
        await send("users of a server", f"u_{number}", None)
    found = await _prompts(parts, "default")  # type: ignore[arg-type]
    assert {"from everywhere", "users of a server"} <= set(found)
    assert "from one browser" not in found
