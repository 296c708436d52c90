"""`hearken train --plan` prints the estimated memory and time of a round, as tables or as JSON."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.local.base_model import base_directory
from schemas.settings import Settings

_MIB = 2**20


def show(settings: Settings, prompt_tokens: int | None, as_json: bool) -> int:
    """Prints the plan; returns 0 if it fits into free memory, else 1. Raises StartError without a model."""
    from trainer.planning.plan import plan

    trainer = settings.trainer
    if settings.samples_on_vllm:
        trainer = trainer.model_copy(update={"rl": trainer.rl.model_copy(update={"sampler": "vllm"})})
    found = plan(trainer, base_directory(settings.model, weights=False), prompt_tokens)
    figures = found.as_json()
    if as_json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if found.fits else 1


def _print(plan: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"{plan['parameters']:,} parameters, {plan['trainable']:,} of them trained, on {plan['device']}; "
        f"prompts of {plan['prompt_tokens']} and replies of {plan['reply_tokens']} tokens,"
        " as if all were that long"
    )
    derived = Table("trainer.rl", "derived", "reason")
    for name, found in plan["derived"].items():
        derived.add_row(name, f"{found['value']:.4g}", found["reason"])
    console.print(derived)
    memory = Table("memory", "MiB", "when")
    for part, size in plan["resident"].items():
        memory.add_row(part, f"{size / _MIB:,.0f}", "always")
    for name, phase in plan["phases"].items():
        for part, size in phase["memory"].items():
            memory.add_row(part, f"{size / _MIB:,.0f}", name)
    console.print(memory)
    time = Table("phase of a round", "seconds", "peak, MiB")
    resident = sum(plan["resident"].values())
    for name, phase in plan["phases"].items():
        peak = resident + sum(phase["memory"].values())
        time.add_row(name, f"{phase['seconds']:,.1f}", f"{peak / _MIB:,.0f}")
    time.add_row("in all", f"{plan['seconds']:,.1f}", f"{plan['peak'] / _MIB:,.0f}")
    console.print(time)
    console.print(
        f"Training reaches {plan['utilisation']:.0%} of the device's speed in matrix products (model FLOPs)."
        f" With trainer.rl.gradient_checkpointing = {str(not plan['gradient_checkpointing']).lower()}"
        f" it would take {plan['toggled']['peak'] / _MIB:,.0f} MiB and"
        f" {plan['toggled']['seconds']:,.1f} seconds."
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
