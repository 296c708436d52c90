"""Policy optimisation: losses, objectives, the optimizer loop and its guard."""
