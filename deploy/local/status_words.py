"""The status of a project in words: `hearken status` and the screen of `hearken up` say the same."""

from typing import Any

_PHASES = {
    "reward_model": "fitting the reward model",
    "supervised": "learning from demonstrations",
    "optimizing": "training",
    "evaluating": "before the gate",
}


def votes_words(votes: dict[str, Any]) -> str:
    more = votes["until_next_round"]
    return f"{votes['waiting']} new votes; " + (f"{more} more start a round." if more else "a round is due.")


def training_words(training: dict[str, Any]) -> str:
    running, last = training["round"], training["last"]
    if running:
        progress = running["progress"] or {}
        phase = _PHASES.get(progress.get("phase", ""), "reading votes")
        steps = f", step {progress['done'] + 1} of {progress['steps']}" if progress.get("steps") else ""
        return f"Round {running['number']} is running: {phase}{steps}."
    state = "Training is paused." if training["state"] == "paused" else "Training waits for votes."
    return f"{state} The last round: {last['headline']}" if last else state


def trial_words(trial: dict[str, Any]) -> str:
    kind = "Duel" if trial["mode"] == "duel" else "Canary"
    return f"{kind} {trial['policy']}: {trial['words']}"


def estimate_words(estimate: dict[str, Any] | None) -> str:
    """Says what recorded votes let expect of a policy, before anybody saw a reply of it."""
    if estimate is None:
        return "Recorded votes did not tell what to expect of it."
    return (
        f"Recorded votes let expect {estimate['approval']:.0%} thumbs up ({estimate['approval_lower']:.0%} to"
        f" {estimate['approval_upper']:.0%}), {100 * estimate['approval_change']:+.1f} ±"
        f" {100 * estimate['approval_change_error']:.1f} points to the policy that was live;"
        f" {estimate['approval_votes']} votes of {estimate['approval_people']} people."
    )


def steps_done(training: dict[str, Any]) -> float | None:
    """Returns the share of the running round's steps that are done; None while it has none."""
    progress = (training["round"] or {}).get("progress") or {}
    return progress["done"] / progress["steps"] if progress.get("steps") else None
