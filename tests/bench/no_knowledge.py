"""A round whose knowledge is not measured, for benches of something else."""

import torch

from trainer.evaluation.knowledge import KnowledgeAccuracy, KnowledgeEval


class NoQuestions(KnowledgeEval):
    """A knowledge evaluation without questions."""

    def __init__(self) -> None:
        pass

    def guard_failure(self, generator: torch.Generator) -> str | None:
        return None

    def passes(self, generator: torch.Generator) -> bool:
        return True


NO_ACCURACY = KnowledgeAccuracy([], [])
