"""Settings come from file, variables and flags; a later source wins; unknown names are refused, old ones
read."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.settings import (
    GateSettings,
    RewardSettings,
    RLSettings,
    Settings,
    TrainerSettings,
    load,
    renamed_fields,
)
from schemas.settings.renamed_fields import RenamedFields


def test_flags_win_over_variables_and_variables_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hearken.toml").write_text('port = 1\nhost = "::1"\n[trainer]\nround_votes = 7\nseed = 3\n')
    monkeypatch.setenv("HEARKEN_PORT", "2")
    monkeypatch.setenv("HEARKEN_TRAINER__ROUND_VOTES", "8")
    settings = load(port=4, model=None)
    assert (settings.port, settings.host, settings.model) == (4, "::1", "starter")
    assert (settings.trainer.round_votes, settings.trainer.seed) == (8, 3)


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hearken.toml").write_text("[trainer]\nround_vote = 7\n")
    with pytest.raises(ValidationError, match=r"trainer\.round_vote"):
        load()


@pytest.mark.parametrize(
    "given",
    [
        {"statement_timeout": 1e7},
        {"judge": {"newest_seconds": 1e12}},
        {"export": {"every": float("inf")}},
        {"trainer": {"reward": {"half_life_days": 1e9}}},
    ],
)
def test_a_time_that_a_date_or_postgres_cannot_hold_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        load(**given)


def test_every_setting_has_a_description() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        names = []
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                names += undescribed(field.annotation)
            elif not field.description:
                names.append(f"{model.__name__}.{name}")
        return names

    assert undescribed(Settings) == []


RENAMED: list[type[RenamedFields]] = [RewardSettings, RLSettings, GateSettings]

OF_THE_RELEASE_BEFORE: dict[str, dict[str, Any]] = {
    "reward": {"members": 3, "caution": 0.4, "half_life_days": 7.0, "judges_share": 0.5},
    "rl": {
        "recompute": True, "steps": 5, "prompts": 6, "replies": 7, "kl_penalty": 0.25, "drift_penalty": 0.75,
        "imitation": 0.125, "exemplars": 0.625, "unended_penalty": 1.5, "clip": 0.2, "truncation": 3.0,
    },
    "gate": {
        "prompts": 8, "probes": 9, "knowledge_loss": 0.0625, "length_ratio": 4.0, "unended_gain": 0.25,
        "repetition_gain": 0.5, "distinct_ratio": 0.75, "probe_file": "ours.jsonl",
    },
}  # fmt: skip
TODAY = TrainerSettings(
    reward=RewardSettings(members=3, uncertainty_penalty=0.4, half_life_days=7, judge_weight_cap=0.5),
    rl=RLSettings(
        gradient_checkpointing=True, steps_per_round=5, prompts_per_step=6, samples_per_prompt=7,
        kl_coef=0.25, style_drift_coef=0.75, edits="imitation", edit_coef=0.125, base_sft_coef=0.625,
        no_eos_penalty=1.5, importance_weight_cap=3.0,
    ),
    gate=GateSettings(
        eval_prompts=8, knowledge_questions=9, max_knowledge_loss=0.0625, max_length_ratio=4.0,
        max_no_eos_increase=0.25, max_repetition_increase=0.5, min_distinct_ratio=0.75,
        knowledge_file=Path("ours.jsonl"),
    ),
)  # fmt: skip


def from_file(folder: Path, patch: pytest.MonkeyPatch) -> TrainerSettings:
    def written(value: object) -> str:
        return f'"{value}"' if isinstance(value, str) else str(value).lower()

    lines = []
    for section, values in OF_THE_RELEASE_BEFORE.items():
        lines.append(f"[trainer.{section}]")
        lines += [f"{name} = {written(value)}" for name, value in values.items()]
    (folder / "hearken.toml").write_text("\n".join(lines))
    patch.chdir(folder)
    return load().trainer


def from_variables(folder: Path, patch: pytest.MonkeyPatch) -> TrainerSettings:
    for section, values in OF_THE_RELEASE_BEFORE.items():
        for name, value in values.items():
            patch.setenv(f"HEARKEN_TRAINER__{section}__{name}".upper(), str(value))
    return load().trainer


def from_flags(folder: Path, patch: pytest.MonkeyPatch) -> TrainerSettings:
    return load(trainer=OF_THE_RELEASE_BEFORE).trainer


def from_manifest(folder: Path, patch: pytest.MonkeyPatch) -> TrainerSettings:
    return TrainerSettings.model_validate(OF_THE_RELEASE_BEFORE)


@pytest.mark.parametrize("read", [from_file, from_variables, from_flags, from_manifest])
def test_old_names_are_read_from_every_source_and_reported_once(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(renamed_fields, "_reported", set())
    with caplog.at_level(logging.WARNING, "settings"):
        assert read(tmp_path, monkeypatch) == read(tmp_path, monkeypatch) == TODAY
    expected = {
        f"{each.section}.{old} is now {each.section}.{new}"
        for each in RENAMED
        for old, new in each.renamed.items()
        if old in OF_THE_RELEASE_BEFORE[each.section.removeprefix("trainer.")]
    }
    said = [record.getMessage() for record in caplog.records]
    assert {line for line in said if "is now" in line} == expected
    assert [line.split(":")[0] for line in said if "is now" not in line] == ["trainer.rl.clip has no effect"]
    assert len(said) == len(expected) + 1


def test_today_s_names_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert TrainerSettings.model_validate(TODAY.model_dump()) == TODAY
    assert caplog.records == []


def test_a_setting_under_both_names_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"trainer\.rl\.steps is the old name of .*steps_per_round"):
        RLSettings.model_validate({"steps": 2, "steps_per_round": 2})


def test_a_fingerprint_of_settings_stays_as_the_release_before_wrote_it() -> None:
    assert TODAY.reward.json_with_old_names() == (
        '{"members":3,"caution":0.4,"half_life_days":7.0,"judges_share":0.5}'
    )
