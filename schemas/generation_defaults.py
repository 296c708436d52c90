"""Generation defaults are the sampling parameters that a base model's `generation_config.json` names. They
are used where a request names none, as by vLLM (`--generation-config auto`).

As there, `do_sample` does not count: without a temperature, the temperature is 1. `max_new_tokens` does not
count either: `serving.max_tokens` is the length of a reply whose request names none.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import StartError

FILE = "generation_config.json"


class GenerationDefaults(BaseModel):
    """Sampling parameters; what a file does not name is neutral, that is, the model's own distribution.
    `top_k` counts tokens (0: all), `min_p` is a share of the likeliest token's probability, and
    `repetition_penalty` divides the logits of tokens of the prompt and the reply (Keskar et al. 2019)."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """Returns the defaults of the base in `directory`. Raises StartError for a file that is not valid."""
    path = directory / FILE
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return GenerationDefaults()
    except ValueError as error:
        raise StartError(f"{path} is not JSON: {error}. Repair it, or remove it.") from None
    if not isinstance(given, dict):
        raise StartError(f"{path} is not a JSON object. Repair it, or remove it.")
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return GenerationDefaults.model_validate(named)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        raise StartError(
            f"{path}: {problem['loc'][0]} is {problem['input']!r}: {problem['msg']}. Correct the file."
        ) from None
