"""The tree in `schemas.errors` is the class hierarchy of every exception that the rooms define."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

from schemas import errors
from schemas.errors import HearkenError

ROOMS = ("schemas", "feedback", "serving", "trainer", "deploy")


def import_everything() -> None:
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def below(base: type) -> Iterator[tuple[str, type]]:
    """The classes of the rooms below `base`, each with its parent's name."""
    for each in base.__subclasses__():
        if each.__module__.partition(".")[0] in ROOMS:
            yield base.__name__, each
            yield from below(each)


def drawn() -> Iterator[tuple[str, str, str]]:
    """The parent, name and module of each line of the tree below its root."""
    _, _, tree = (errors.__doc__ or "").partition("\n\nHearkenError\n")
    path = ["HearkenError"]
    for branch, name, rest in re.findall(r"^([│├└─ ]+)(\w+)(.*)$", tree, re.MULTILINE):
        depth = len(branch) // 4
        path[depth:] = [name]
        module = re.search(r"\((\w+(?:\.\w+)+)\)$", rest)
        yield path[depth - 1], name, module[1] if module else "schemas.errors"


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    import_everything()


def test_the_tree_is_the_hierarchy() -> None:
    real = [(parent, each.__name__, each.__module__) for parent, each in below(HearkenError)]
    assert sorted(drawn()) == sorted(real)


def test_every_error_says_when_it_is_raised() -> None:
    assert [each.__name__ for _, each in below(HearkenError) if not each.__doc__] == []


def test_every_exception_of_the_rooms_is_in_the_tree() -> None:
    def defined(base: type) -> Iterator[type]:
        for each in base.__subclasses__():
            yield each
            yield from defined(each)

    beside = {
        f"{each.__module__}.{each.__name__}"
        for each in defined(BaseException)
        if each.__module__.partition(".")[0] in ROOMS and not issubclass(each, HearkenError)
    }
    assert beside == set()
