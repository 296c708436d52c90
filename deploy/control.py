"""These commands say what the console says, and change who answers: from anywhere with `--url` and a key, or
beside the database."""

import json
import sys
from typing import Annotated, Any, Literal

import typer

from deploy.command_line import DataDir, Json, Key, Url
from deploy.local.status_words import estimate_words, training_words, votes_words
from deploy.operations import operations
from schemas.errors import StartError

app = typer.Typer()
rollout = typer.Typer(help="Show or change who is answered by which policy.", no_args_is_help=True)
app.add_typer(rollout, name="rollout")

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
Policy = Annotated[str, typer.Argument(help="The policy's id.")]


@app.command()
def status(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show what answers now and why, the votes until the next round, and what needs you."""
    found = operations(url, key, data_dir).status()
    if as_json:
        print(json.dumps(found))
        return
    answering = found["answering"]
    print(f"{answering['live']} answers. {answering['why']}")
    for each in answering["shares"]:
        print(f"  {each['share']:6.1%}  {each['policy']:16} {each['role']}")
    if found["canary"]:
        print(f"Canary {found['canary']['policy']}: {found['canary']['words']}")
    print(votes_words(found["votes"]))
    print(training_words(found["training"]))
    for alert in found["alerts"]:
        print(f"{alert['severity'].upper():6}  {alert['summary']} {alert['remedy']}")
    if not found["alerts"]:
        print("Nothing needs you.")


@app.command()
def rounds(
    round: Annotated[int | None, typer.Argument(help="The id of a round, for its report.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Rounds that are listed.")] = 20,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the training rounds, newest first, or show the report of one."""
    source = operations(url, key, data_dir)
    if round is not None:
        report = source.report(round)
        print(json.dumps(report) if as_json else _report(report))
        return
    found = source.rounds(limit)
    if as_json:
        print(json.dumps(found))
        return
    for each in found:
        took = f"{each['seconds']:.0f} s" if each["ended_at"] else "…"
        print(f"{each['id']:>6}  {each['started_at'][:19]}  {took:>7}  {each['headline']}")


@rollout.command()
def show(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the rollouts, newest first, and the evidence of the running one."""
    found = operations(url, key, data_dir).rollouts()
    if as_json:
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
def start(
    policy: Policy,
    share: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="Share of the people, or of the pairs; none: votes decide."),
    ] = None,
    mode: Annotated[
        Literal["canary", "duel"] | None, typer.Option(help="How it is tried; default: by serving.promotion.")
    ] = None,
    yes: Yes = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Let people try a policy: a share of them (a canary), or those who compare replies (a duel)."""
    source = operations(url, key, data_dir)
    _confirm(source.preview("start", policy, share or 0.05, mode), yes)
    source.start(policy, share, mode)
    print(f"{policy} is being tried. `hearken rollout show` tells how it does.")


@rollout.command()
def promote(
    policy: Policy,
    reason: Annotated[str | None, typer.Option(help="Stored; brings back what was rolled back.")] = None,
    yes: Yes = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Make a policy live for everybody, after the engines have proved it."""
    source = operations(url, key, data_dir)
    _confirm(source.preview("promote", policy, 1), yes)
    source.promote(policy, reason)
    print(f"{policy} is live.")


@rollout.command()
def rollback(
    policy: Annotated[str | None, typer.Argument(help="The live policy (default) or the canary.")] = None,
    reason: Annotated[str, typer.Option(help="Stored with the policy.")] = "rolled back by an operator",
    yes: Yes = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Take the live policy or the canary back, from the next request on."""
    source = operations(url, key, data_dir)
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
    marks = {"good": "ok", "near": "~", "bad": "NO", "unknown": "?"}
    return [
        f"  {marks[check['state']]:3} {check['name']:38} {check['found']}  (limit {check['limit']})"
        for check in checks
    ]
