"""`hearken train --plan` prints the estimated memory and time of a round, as tables or as JSON."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.local.base_model import base_directory
from deploy.local.served import served
from schemas.settings import Settings

_MIB = 2**20


def show(settings: Settings, prompt_tokens: int | None, gpu_gib: float | None, as_json: bool) -> int:
    """Prints the plan for this machine, or for a GPU of so many GiB, and for the people whom the project
    serves; returns 0 if it fits into free memory, else 1. Raises StartError without a model."""
    from trainer.planning.machine import Machine
    from trainer.planning.plan import plan

    trainer = settings.trainer
    if settings.samples_on_vllm:
        trainer = trainer.model_copy(update={"rl": trainer.rl.model_copy(update={"sampler": "vllm"})})
    machine = None if gpu_gib is None else Machine.gpu(gpu_gib)
    base = base_directory(settings.model, weights=False)
    traffic, learning_rate, unread = served(settings)
    found = plan(trainer, base, prompt_tokens, machine, traffic, learning_rate)
    figures = found.as_json() | {"unread": unread}
    if as_json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if found.fits else 1


def _print(plan: dict[str, Any]) -> None:
    console = Console(markup=False, emoji=False)
    console.print(
        f"{plan['parameters']:,} parameters, {plan['trainable']:,} of them trained, on {plan['device']}; "
        f"prompts of {plan['prompt_tokens']} and replies of {plan['reply_tokens']} tokens,"
        " as if all were that long"
    )
    derived = Table("trainer.rl", "derived", "reason")
    for name, found in plan["derived"].items():
        value = found["value"]
        derived.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value), found["reason"])
    console.print(derived)
    if plan["unread"]:
        console.print(plan["unread"])
    stage = {"supervised stage, with demonstrations": plan["supervised"]}
    memory = Table("memory", "MiB", "when")
    for part, size in plan["resident"].items():
        memory.add_row(part, f"{size / _MIB:,.0f}", "always")
    for name, phase in (plan["phases"] | stage).items():
        for part, size in phase["memory"].items():
            memory.add_row(part, f"{size / _MIB:,.0f}", name)
    console.print(memory)
    time = Table("phase of a round", "seconds", "peak, MiB")
    resident = sum(plan["resident"].values())
    for name, phase in plan["phases"].items():
        peak = resident + sum(phase["memory"].values())
        time.add_row(name, _seconds(phase["seconds"]), f"{peak / _MIB:,.0f}")
    time.add_row("in all", _seconds(plan["seconds"]), f"{plan['peak'] / _MIB:,.0f}")
    for name, phase in stage.items():
        peak = resident + sum(phase["memory"].values())
        time.add_row(f"beside: {name}", _seconds(phase["seconds"]), f"{peak / _MIB:,.0f}")
    console.print(time)
    if plan["utilisation"] is not None:
        console.print(
            f"Training reaches {plan['utilisation']:.0%} of the device's speed in matrix products (model"
            " FLOPs)."
        )
    console.print(
        f"These rows are trained {'with' if plan['gradient_checkpointing'] else 'without'} gradient"
        f" checkpointing; {'without' if plan['gradient_checkpointing'] else 'with'} it training would take"
        f" {plan['toggled']['peak'] / _MIB:,.0f} MiB and {_seconds(plan['toggled']['seconds'])} seconds."
    )
    budget = plan["budget"]
    console.print(
        f"A batch has at most {budget['training']:,} tokens in training and scoring and"
        f" {budget['sampling']:,} in sampling: as many as fit into the free memory. Prompts of more"
        f" than {plan['longest_prompt']:,} tokens are not trained on; the limit is {plan['longest_reason']}."
    )
    verdict = "It fits" if plan["fits"] else "It does not fit"
    console.print(
        f"{verdict}: {plan['peak'] / _MIB:,.0f} MiB at the most, {plan['free'] / _MIB:,.0f} MiB free."
    )
    for names, peak in plan["savings"].items():
        console.print(f"  {names}: {peak / _MIB:,.0f} MiB")


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:,.1f}"
