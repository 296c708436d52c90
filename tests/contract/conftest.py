"""Fixtures of the contract suites."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from engines import ADAPTERS, SLOTS, World, start_embedded, start_vllm

from serving.engine import EngineClient
from tests.broker import Broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def world(worlds: Callable[[str], World]) -> World:
    return worlds("llama")


@pytest.fixture(scope="session")
def embedded_url(world: World) -> Iterator[str]:
    yield from start_embedded(world.base, "--max-loras", str(SLOTS), "--max-num-seqs", "16")


@pytest.fixture(scope="session")
def vllm_url(world: World) -> Iterator[str]:
    """vLLM takes 20 seconds of a core to start: all suites share it."""
    yield from start_vllm(world.base, adapters=SLOTS, streams=16)


@pytest.fixture(scope="session", params=["embedded", "vllm"])
def url(request: pytest.FixtureRequest) -> str:
    """Each engine in turn, with five slots for adapters."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """Builds a base with adapters, once for each architecture."""
    directory = tmp_path_factory.mktemp("worlds")
    built: dict[str, World] = {}

    def build(architecture: str) -> World:
        if architecture not in built:
            built[architecture] = World(directory, architecture)
        return built[architecture]

    return build


@pytest.fixture
async def engine(url: str, world: World) -> AsyncIterator[EngineClient]:
    """A client of an engine that holds exactly the four adapters."""
    engine = EngineClient(url, timeout=30)
    for name in await engine.adapters() - set(ADAPTERS):
        await engine.unload(name)
    for name, path in world.adapters.items():
        await engine.load(name, path)
    yield engine
    await engine.close()
