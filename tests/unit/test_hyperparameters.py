"""What no setting of RL names follows from the model, the traffic and the machine; what one names stays."""

import json
from dataclasses import replace

import pytest

from schemas.generation_defaults import GenerationDefaults
from schemas.settings import RLSettings, TrainerSettings
from trainer.data.hyperparameters import (
    DEFAULT_TOKENS,
    FULL_STEPS,
    LEARNING_RATE,
    MAX_MIN_P,
    MIN_TEMPERATURE,
    MIN_TOP_K,
    MIN_TOP_P,
    PROMPTS_PER_STEP,
    Derivation,
    Hyperparameters,
    Model,
)
from trainer.data.round_inputs import RoundInputs
from trainer.data.traffic import Traffic
from trainer.model.speed import Speed

FAST = Speed(4_000, 10_000, 30_000)
SLOW = Speed(200, 500, 1_500)
SERVED = Traffic(60.0, 100.0, 200, False, {"temperature": 0.7, "top_p": 0.9}, new_votes=25)
DERIVED = Derivation(TrainerSettings(), Model(576, 8_192), SERVED, FAST)


def derived(derivation: Derivation = DERIVED, **changes: object) -> Hyperparameters:
    return replace(derivation, **changes).hyperparameters()


def test_what_a_setting_names_stays() -> None:
    rl = RLSettings(
        learning_rate=1e-4,
        steps_per_round=3,
        prompts_per_step=5,
        max_tokens=17,
        samples_per_prompt=6,
        kl_coef=0.5,
    )
    found = derived(settings=TrainerSettings(rl=rl), speed=SLOW, learning_rate=7.0)
    for name, value in rl:
        assert getattr(found, name) == value
    reasons = replace(DERIVED, settings=TrainerSettings(rl=rl)).as_json()
    assert set(reasons) == set(GenerationDefaults.model_fields)


def test_replies_are_as_long_as_those_that_people_were_served() -> None:
    assert derived().max_tokens == 250
    assert derived(traffic=replace(SERVED, cut_off=True)).max_tokens == 200
    assert derived(traffic=replace(SERVED, longest_reply=3)).max_tokens == 32
    assert derived(traffic=Traffic()).max_tokens == DEFAULT_TOKENS
    assert derived(model=Model(576, 256)).max_tokens == 128


def test_the_learning_rate_falls_with_the_width_and_is_kept_between_rounds() -> None:
    assert derived(model=Model(256, 8_192)).learning_rate == LEARNING_RATE
    assert derived(model=Model(1_024, 8_192)).learning_rate == LEARNING_RATE / 4
    assert derived(learning_rate=3e-5).learning_rate == 3e-5


@pytest.mark.parametrize(("new", "steps"), [(1, 1), (4, 2), (13, 5), (25, FULL_STEPS), (900, FULL_STEPS)])
def test_steps_are_in_proportion_to_the_new_votes(new: int, steps: int) -> None:
    assert derived(traffic=replace(SERVED, new_votes=new)).steps_per_round == steps


def test_a_round_that_was_asked_for_without_new_votes_is_a_whole_one() -> None:
    assert derived(traffic=replace(SERVED, new_votes=0)).steps_per_round == FULL_STEPS


def test_a_slow_machine_samples_less() -> None:
    fast, slow = derived(), derived(speed=SLOW)
    assert fast.prompts_per_step == PROMPTS_PER_STEP[0] > slow.prompts_per_step
    assert fast.base_prompts == 4 * fast.prompts_per_step
    limit = DERIVED.settings.max_round_seconds
    assert replace(DERIVED, speed=SLOW).seconds(slow.prompts_per_step) <= limit
    assert replace(DERIVED, speed=SLOW).seconds(2 * slow.prompts_per_step) > limit
    patient = TrainerSettings(max_round_seconds=100 * limit)
    assert derived(settings=patient, speed=SLOW).prompts_per_step == PROMPTS_PER_STEP[0]
    long = replace(SERVED, longest_reply=1_000)
    hopeless = derived(speed=Speed(1, 1, 1), traffic=long)
    assert hopeless.prompts_per_step == PROMPTS_PER_STEP[-1]
    assert (hopeless.max_tokens, derived(speed=SLOW, traffic=long).max_tokens) == (DEFAULT_TOKENS, 1_250)


def test_samples_are_drawn_as_people_are_served() -> None:
    """What no turn says is the model's own, as a turn of an older release has two parameters only."""
    own = GenerationDefaults(temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.05)
    model = Model(576, 8_192, own)
    assert derived().sampling == GenerationDefaults(temperature=0.7, top_p=0.9).model_dump()
    assert derived(model=model, traffic=Traffic()).sampling == own.model_dump()
    some = replace(DERIVED, model=model)
    assert some.hyperparameters().sampling == own.model_dump() | SERVED.sampling
    assert some.as_json()["top_p"] == {"value": 0.9, "reason": "as people are served"}
    assert some.as_json()["top_k"] == {"value": 20, "reason": "the model's own"}
    penalised = {**SERVED.sampling, "top_k": 40, "presence_penalty": 0.5, "repetition_penalty": 1.0}
    found = derived(some, traffic=replace(SERVED, sampling=penalised))
    assert found.sampling == own.model_dump() | penalised


def test_samples_differ_however_people_are_served() -> None:
    alike = {"temperature": 0.0, "top_p": 0.1, "top_k": 1, "min_p": 1.0}
    found = derived(traffic=replace(SERVED, sampling=alike))
    assert (found.temperature, found.top_p) == (MIN_TEMPERATURE, MIN_TOP_P)
    assert (found.top_k, found.min_p) == (MIN_TOP_K, MAX_MIN_P)
    of_model = derived(model=Model(576, 8_192, GenerationDefaults(**alike)), traffic=Traffic())
    assert of_model.sampling == found.sampling
    assert derived(traffic=replace(SERVED, sampling={"top_k": -1})).top_k == 0


def test_a_round_of_an_older_release_has_the_values_of_its_time() -> None:
    old = RoundInputs(draw=1, parent="p0", votes=40, events=[], turns=[], positions={})
    found = old.hyperparameters(RLSettings(steps_per_round=3))
    assert (found.steps_per_round, found.prompts_per_step, found.max_tokens) == (3, 32, 90)
    assert found.learning_rate == 2e-3
    kept = old.model_copy(update={"rl": derived()})
    assert RoundInputs.model_validate_json(kept.model_dump_json()).hyperparameters(RLSettings()) == derived()


def test_a_round_of_an_older_release_was_sampled_at_temperature_and_top_p_alone() -> None:
    inputs = RoundInputs(draw=1, parent="p0", votes=40, events=[], turns=[], positions={}, rl=derived())
    written = json.loads(inputs.model_dump_json())
    for name in GenerationDefaults.model_fields.keys() - {"temperature", "top_p"}:
        del written["rl"][name]
    found = RoundInputs.model_validate(written).hyperparameters(RLSettings())
    assert found.sampling == GenerationDefaults(temperature=0.7, top_p=0.9).model_dump()
