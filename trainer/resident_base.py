"""ResidentBase is a process's one copy of the base model, over which the rounds of all projects run.

Hyperparameters, knowledge probes and the token budget follow from what is measured of it, once.
"""

from collections import OrderedDict
from pathlib import Path

import structlog
import torch

from schemas.settings import JudgeSettings, Settings
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.evaluation.constraints.blocklist import Blocklist
from trainer.evaluation.constraints.sycophancy import SycophancyEval
from trainer.evaluation.knowledge import KnowledgeEval
from trainer.evaluation.screening import base_probes
from trainer.model.adapter import probe
from trainer.model.auxiliary import AuxiliaryModel
from trainer.model.backbone import Backbone
from trainer.model.device import free_memory
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.speed import Speed
from trainer.model.token_budget import TokenBudget
from trainer.model.vllm_rollouts import VllmEngine
from trainer.rl.guard import ADAPTER_COPIES

MAX_CACHES = 8
"""Projects whose scores of voted replies stay open: those of the last rounds."""

log = structlog.get_logger("trainer")


class ResidentBase:
    """The backbone with its speed, its token budget, its probe, its accuracy on knowledge questions, and what
    the gate's constraints need."""

    def __init__(self, settings: Settings, group: ProcessGroup = SINGLE_PROCESS) -> None:
        torch.set_num_threads(settings.trainer.threads or 1)
        self.group = group
        self.backbone = Backbone(Path(settings.model), settings.trainer.rl, group)
        if (auxiliary := settings.trainer.reward.auxiliary_model) is not None:
            self.backbone.auxiliary = AuxiliaryModel(auxiliary, self.backbone.device)
        self.probe = probe(self.backbone)
        self.token_budget = self.backbone.token_budget = self._token_budget(settings)
        self.engine = self.backbone.engine = _sampling_engine(settings)
        self.sycophancy = SycophancyEval(self.backbone)
        path = settings.trainer.gate.blocklist_file
        self.blocklist = None if path is None else Blocklist(path)
        self._settings = settings
        self._caches: OrderedDict[str, FeatureCache] = OrderedDict()
        several = group.size > 1  # which measure together
        self._speed = Speed.measure(self.backbone) if several else None
        self._knowledge = self._knowledge_eval() if several else None

    @property
    def speed(self) -> Speed:
        """The speed of sampling and training. A single process measures it at the first use: its sampling
        engine may be ready later than itself. Raises EngineError."""
        if self._speed is None:
            self.backbone.engine = self.engine
            self._speed = Speed.measure(self.backbone)
        return self._speed

    @property
    def knowledge(self) -> KnowledgeEval:
        """The knowledge evaluation. A single process measures what the base knows at the first use, if that
        was never measured: it takes minutes with a real model."""
        if self._knowledge is None:
            self._knowledge = self._knowledge_eval()
        return self._knowledge

    def cache(self, project: str) -> FeatureCache:
        """Returns the scores of a project's voted replies, and forgets those of the project whose use is
        longest ago. All processes of a group call it in the same order, so that they score the same."""
        directory = self._settings.rounds_dir / project
        found = self._caches.pop(project, None) or FeatureCache(self.backbone, directory)
        self._caches[project] = found
        while len(self._caches) > MAX_CACHES:
            self._caches.popitem(last=False)
        return found

    def judge(self, project: str) -> JudgeSettings | None:
        """Returns the judge of a project's replies. Only the installation's own project has one, and only the
        main process of a group asks it."""
        if not self.group.is_main or project != self._settings.project or not self._settings.judge.url:
            return None
        return self._settings.judge

    def forget(self, project: str) -> None:
        """Drops what is kept of a project that is gone. Other processes of a group drop it in time."""
        self._caches.pop(project, None)

    def _knowledge_eval(self) -> KnowledgeEval:
        probes = base_probes(self.backbone, self._settings.data_dir)
        return KnowledgeEval(self.backbone, self._settings.trainer, probes)

    def _token_budget(self, settings: Settings) -> TokenBudget:
        """Returns the budget for the memory that is free now, with the base loaded."""
        backbone = self.backbone
        adapter = sum(weight.nbytes for weight in backbone.trainable())
        memory = free_memory(backbone.device) // self.group.processes_here(backbone.device)
        count = TokenBytes.count(backbone)
        copies = max(settings.trainer.rl.samples_per_prompt, BASE_SAMPLES)
        found = token_budget(backbone, count, memory - ADAPTER_COPIES * adapter, copies)
        if self.group.is_main:
            log.info("token budget", **found.model_dump(), free_mib=memory // 2**20)
        return found


def _sampling_engine(settings: Settings) -> VllmEngine | None:
    """Returns the engine on which rounds sample; None where this process samples itself."""
    if not settings.samples_on_vllm:
        return None
    key = settings.vllm.key.get_secret_value() if settings.vllm.key else None
    return VllmEngine(settings.vllm.urls, settings.policies_dir / settings.project, key)
