"""Settings: file, then variables, then flags; the later wins, and nonsense is refused by name."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from schemas.settings import Settings, load


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
