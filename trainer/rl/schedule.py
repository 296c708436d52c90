"""Schedules of a round: the learning rate by step, and the KL coefficient by the budget that is used."""

from schemas.settings import RLSettings
from trainer.data.hyperparameters import Hyperparameters


def lr_factor(step: int, rl: Hyperparameters) -> float:
    """Returns the learning rate of a step, relative to the peak: a linear warm-up, then a linear decay to a
    fifth."""
    if step < rl.warmup_steps:
        return (step + 1) / (rl.warmup_steps + 1)
    left = (rl.steps_per_round - step) / max(1, rl.steps_per_round - rl.warmup_steps)
    return 0.2 + 0.8 * left


def kl_coef(used: float, rl: RLSettings) -> float:
    """Returns β, a barrier function of the share of a budget that is used: twofold at 70%, at most
    fourfold."""
    return rl.kl_coef / max(0.25, 1 - max(used, 0.0) ** 2)
