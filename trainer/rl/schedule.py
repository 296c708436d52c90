"""Schedules of a round: the learning rate by step, and the KL coefficient by the budget that is used."""

from schemas.settings import RLSettings


def learning_rate(step: int, rl: RLSettings) -> float:
    """Returns the learning rate: a linear warm-up, then a linear decay to a fifth of the peak."""
    if step < rl.warmup_steps:
        return rl.learning_rate * (step + 1) / (rl.warmup_steps + 1)
    left = (rl.steps_per_round - step) / max(1, rl.steps_per_round - rl.warmup_steps)
    return rl.learning_rate * (0.2 + 0.8 * left)


def kl_coef(used: float, rl: RLSettings) -> float:
    """Returns β, a barrier function of the share of a budget that is used: twofold at 70%, at most
    fourfold."""
    return rl.kl_coef / max(0.25, 1 - max(used, 0.0) ** 2)
