"""Settings come from `hearken.toml`, then `HEARKEN_…` variables, then flags; a later source overrides an
earlier one. Nested fields take two underscores: `HEARKEN_TRAINER__ROUND_VOTES=50`. One file for each section;
`installation` has them all."""

from schemas.settings.engines import EngineSettings, VllmSettings
from schemas.settings.feedback import ExportSettings, JudgeSettings, KafkaSettings, RedactionSettings
from schemas.settings.gate import GateSettings
from schemas.settings.installation import Settings, SigningSettings, load
from schemas.settings.reward import CriteriaSettings, RewardSettings
from schemas.settings.rl import RLSettings
from schemas.settings.serving import ServingSettings
from schemas.settings.trainer import TrackingSettings, TrainerSettings

__all__ = (
    "CriteriaSettings", "EngineSettings", "ExportSettings", "GateSettings", "JudgeSettings", "KafkaSettings",
    "RLSettings", "RedactionSettings", "RewardSettings", "ServingSettings", "Settings", "SigningSettings",
    "TrackingSettings", "TrainerSettings", "VllmSettings", "load",
)  # fmt: skip
