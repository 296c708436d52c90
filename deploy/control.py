"""These commands say what the console says, and change who answers: from anywhere with `--url` and a key, or
beside the database."""

import json
import sys
from typing import Annotated, Any, Literal

import typer

from deploy.access import Access, Where
from deploy.command_line import option_groups
from deploy.local.status_words import estimate_words, training_words, trial_words, votes_words
from schemas.errors import StartError

app = typer.Typer()
rollout = typer.Typer(help="Show or change who is answered by which policy.", no_args_is_help=True)
app.add_typer(rollout, name="rollout")

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
Policy = Annotated[str, typer.Argument(help="The policy's id.")]


@app.command()
@option_groups
def status(access: Access) -> None:
    """Show what answers now and why, the votes until the next round, and what needs you."""
    found = access.operations().status()
    if access.as_json:
        print(json.dumps(found))
        return
    answering = found["answering"]
    print(f"{answering['live']} answers. {answering['why']}")
    for each in answering["shares"]:
        print(f"  {each['share']:6.1%}  {each['policy']:16} {each['role']}")
    if found["canary"]:
        print(trial_words(found["canary"]))
    print(votes_words(found["votes"]))
    print(training_words(found["training"]))
    for alert in found["alerts"]:
        print(f"{alert['severity'].upper():6}  {alert['summary']} {alert['remedy']}")
    if not found["alerts"]:
        print("Nothing needs you.")


@app.command()
@option_groups
def rounds(
    access: Access,
    round: Annotated[int | None, typer.Argument(help="The id of a round, for its report.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Rounds that are listed.")] = 20,
) -> None:
    """List the training rounds, newest first, or show the report of one."""
    source = access.operations()
    if round is not None:
        report = source.report(round)
        print(json.dumps(report) if access.as_json else _report(report))
        return
    found = source.rounds(limit)
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        took = f"{each['seconds']:.0f} s" if each["ended_at"] else "…"
        print(f"{each['id']:>6}  {each['started_at'][:19]}  {took:>7}  {each['headline']}")


@rollout.command()
@option_groups
def show(access: Access) -> None:
    """List the rollouts, newest first, and the evidence of the running one."""
    found = access.operations().rollouts()
    if access.as_json:
        print(json.dumps(found))
        return
    for each in found:
        print(f"{each['started_at'][:19]}  {each['policy']:16} {each['kind']:7} {each['share']:4.0%}"
              f"  {each['state']:11} {each['reason'] or ''}")  # fmt: skip
        if each["state"] == "running":
            print(f"  {estimate_words(each.get('estimate'))}")
            if each["evidence"]:
                print(_evidence(each["evidence"]))


def _evidence(evidence: dict[str, Any]) -> str:
    """Returns the figures of a rollout, with the bounds that hold at all times."""
    lines = [f"  {evidence['words']}"]
    lines += [
        f"  {name:14} {found['candidate']:7.3f} against {found['other']:7.3f}, difference"
        f" {found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}),"
        f" {found['people']} and {found['other_people']} people"
        for name, found in evidence["metrics"].items()
    ]
    if evidence["missing"]:
        lines.append(f"  not known yet: {', '.join(evidence['missing'])}")
    return "\n".join(lines)


@rollout.command()
@option_groups
def start(
    policy: Policy,
    where: Where,
    share: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="Share of the traffic, or of the pairs; none: votes decide."),
    ] = None,
    mode: Annotated[
        Literal["canary", "duel"] | None, typer.Option(help="How it is tried; default: by serving.promotion.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Let people try a policy: a share of them (a canary), or those who compare replies (a duel)."""
    source = where.operations()
    _confirm(source.preview("start", policy, share or 0.05, mode), yes)
    source.start(policy, share, mode)
    print(f"{policy} is being tried. `hearken rollout show` tells how it does.")


@rollout.command()
@option_groups
def promote(
    policy: Policy,
    where: Where,
    reason: Annotated[
        str | None, typer.Option(help="Stored; brings back what was rolled back or refused.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Make a policy live for everybody, after the engines have proved it."""
    source = where.operations()
    _confirm(source.preview("promote", policy, 1), yes)
    source.promote(policy, reason)
    print(f"{policy} is live.")


@rollout.command()
@option_groups
def rollback(
    where: Where,
    policy: Annotated[str | None, typer.Argument(help="The live policy (default) or the canary.")] = None,
    reason: Annotated[str, typer.Option(help="Stored with the policy.")] = "rolled back by an operator",
    yes: Yes = False,
) -> None:
    """Take the live policy or the canary back, from the next request on."""
    source = where.operations()
    preview = source.preview("rollback", policy, 1)
    _confirm(preview, yes)
    source.rollback(preview["policy"], reason)
    print(f"{preview['policy']} is rolled back; {preview['then'][0]['policy']} answers.")


def _confirm(preview: dict[str, Any], yes: bool) -> None:
    """Says who would answer, and asks. Raises StartError where nobody can be asked."""
    print(preview["words"])
    if preview["action"] == "start":
        print(estimate_words(preview.get("estimate")))
    for each in preview["then"]:
        print(f"  {each['share']:6.1%}  {each['policy']:16} {each['role']}")
    print(f"The way back: {preview['way_back']}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise StartError("Nothing was changed. Say --yes to do it without a question.")
    if not typer.confirm("Do it?"):
        raise typer.Exit(1)


def _report(report: dict[str, Any]) -> str:
    lines = [f"Round {report['number']}: {report['headline']}"]
    lines += filter(None, [report["verdict"]])
    lines += [f"  - {doubt}" for doubt in report["doubts"]]
    return "\n".join([*lines, *checks_lines(report["checks"])])


def checks_lines(checks: list[dict[str, str]]) -> list[str]:
    """Returns a line for each check of the gate: how it stands, its name, what was found, and its limit."""
    marks = {"good": "ok", "unknown": "~", "refused": "NO", "unjudged": "?"}
    return [
        f"  {marks[check['state']]:3} {check['name']:38} {check['found']}  (limit {check['limit']})"
        for check in checks
    ]
