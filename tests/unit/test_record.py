"""A round's record is valid JSON, whatever its figures."""

import json
import math

from trainer.evaluation.knowledge import accuracy_drop
from trainer.records.record import finite


def test_numbers_that_are_not_finite_become_null() -> None:
    figures = {"gain": math.nan, "steps": [{"kl": -math.inf, "reward": 0.5}], "round": 3, "reason": None}
    kept = finite(figures)
    assert kept == {"gain": None, "steps": [{"kl": None, "reward": 0.5}], "round": 3, "reason": None}
    json.dumps(kept, allow_nan=False)


def test_a_single_question_has_an_error_that_is_a_number() -> None:
    assert accuracy_drop([1.0], [0.0]) == (1.0, 0.0)
