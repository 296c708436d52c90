"""Fixtures of the contract suites."""

from collections.abc import Callable, Iterator

import pytest
from engines import World

from tests.broker import Broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.start()
    yield broker
    broker.kill()


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
