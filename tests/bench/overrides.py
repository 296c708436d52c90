"""`--set rl.learning_rate=3e-4 gate.folds=4` on a bench's command line changes settings of the trainer."""

from collections.abc import Sequence

import yaml

from schemas.settings import TrainerSettings


def trainer_settings(assignments: Sequence[str]) -> TrainerSettings:
    """Returns the default settings with these changed; `null` is none. Raises pydantic's ValidationError for
    a value that does not fit."""
    found = TrainerSettings().model_dump()
    for assignment in assignments:
        path, _, value = assignment.partition("=")
        *sections, name = path.split(".")
        holder = found
        for section in sections:
            holder = holder[section]
        if name not in holder:
            raise KeyError(f"there is no setting trainer.{path}")
        holder[name] = yaml.safe_load(value)
    return TrainerSettings.model_validate(found)
