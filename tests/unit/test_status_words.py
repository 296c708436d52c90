"""The status in words names a trial by its kind."""

import pytest

from deploy.local.status_words import trial_words


@pytest.mark.parametrize(("mode", "kind"), [("canary", "Canary"), ("duel", "Duel")])
def test_a_trial_is_named_by_its_kind(mode: str, kind: str) -> None:
    trial = {"mode": mode, "policy": "p2-bbbbbb", "words": "It has just begun."}
    assert trial_words(trial) == f"{kind} p2-bbbbbb: It has just begun."
