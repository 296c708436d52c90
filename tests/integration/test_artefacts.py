"""What was published is loaded, keys rotate, and what replaced an adapter on an engine is found."""

from typing import LiteralString

import pytest

from schemas.errors import PolicyRejected
from schemas.policies import BASE
from tests.policy_loading import Serving, trust
from tests.published import KEY, NEW_KEY, OTHER, POLICY, Published, flip


async def test_what_was_published_is_loaded(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    assert serving.engine.changes.count("/v1/load_lora_adapter") == 1
    assert await serving.live() == POLICY


async def test_files_that_change_while_they_are_loaded_are_refused(serving: Serving) -> None:
    serving.engine.on_load = lambda: flip(serving.policy)
    with pytest.raises(PolicyRejected, match="changed while"):
        await serving.swap.promote("default", POLICY)
    assert set(serving.engine.loaded) == {BASE}
    assert await serving.live() == BASE


async def test_keys_rotate(serving: Serving) -> None:
    """The old key stays trusted beside the new one, until it is removed; no restart."""
    trust(serving.settings, KEY, NEW_KEY)
    await serving.swap.promote("default", POLICY)
    newer = Published(serving.policy.directory.with_name(OTHER))
    newer.write(key=NEW_KEY, id=OTHER)
    await serving.register(newer, OTHER)
    await serving.swap.promote("default", OTHER)
    trust(serving.settings, NEW_KEY)
    third = Published(serving.policy.directory.with_name("p3-777777"))
    third.write(key=KEY, id="p3-777777")
    await serving.register(third, "p3-777777")
    with pytest.raises(PolicyRejected) as caught:
        await serving.swap.promote("default", "p3-777777")
    assert caught.value.reason == "unsigned"


async def test_where_no_key_is_trusted_digests_decide(serving: Serving) -> None:
    serving.settings.signing.trusted_file = None
    serving.policy.row["signature"] = None
    await serving.register(serving.policy, state="retired")
    await serving.swap.promote("default", POLICY)
    assert await serving.live() == POLICY


async def test_an_adapter_that_was_replaced_on_the_engine_is_found_and_loaded_again(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    await serving.swap.reconcile()
    assert not await serving.swap.integrity_check.run()
    serving.engine.replaced = True
    serving.engine.changes.clear()
    assert await serving.swap.integrity_check.run()
    assert "/v1/unload_lora_adapter" in serving.engine.changes
    await serving.swap.reconcile()
    assert not await serving.swap.integrity_check.run()
    assert serving.metrics.registry.get_sample_value("hearken_adapters_replaced_total") == 2


async def test_one_process_looks_at_what_several_share(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.shared_checks.is_shared", lambda url: True)
    await serving.swap.promote("default", POLICY)
    [replica] = serving.fleet.replicas
    name = next(name for name in replica.loaded if name != BASE)

    async def checks(statement: LiteralString) -> None:
        async with serving.pool.connection() as connection:
            await connection.execute(statement, [name])

    async def probes() -> int:
        serving.engine.changes.clear()
        await serving.swap.integrity_check.run()
        return serving.engine.changes.count("/v1/completions")

    assert await probes() == 0  # somebody checked it just now
    await checks("update adapter_checks set checked_at = now() - interval '1 minute' where adapter = %s")
    assert await probes() > 0
    assert await probes() == 0
    await checks("delete from adapter_checks where adapter = %s")  # another process took it from the engine
    await serving.swap.integrity_check.run()
    assert name not in replica.verified


async def test_an_adapter_of_another_folder_is_unloaded_at_the_next_health_check(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    name = next(name for name in serving.engine.loaded if name != BASE)
    serving.engine.loaded[name] = "/elsewhere/theirs"
    for _ in range(2):  # the first is answered by the tokens of the probe
        await serving.fleet.health_check()
    assert not serving.fleet.serves(name)
    assert serving.metrics.registry.get_sample_value("hearken_adapters_replaced_total") == 1
    await serving.swap.reconcile()
    assert serving.engine.loaded[name] == str(serving.policy.directory)


async def test_damaged_files_are_told_of_while_what_was_loaded_goes_on(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    await serving.swap.integrity_check.run()
    flip(serving.policy)
    assert not await serving.swap.integrity_check.run()
    assert serving.metrics.registry.get_sample_value("hearken_policies_damaged") == 1
    assert len(serving.engine.loaded) == 2
