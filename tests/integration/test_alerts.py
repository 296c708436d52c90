"""Each alert fires on its condition, and not on similar but harmless ones; promtool evaluates them."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
}
MINUTES = 30
"""Time of the evaluation. Series have one value a minute, in promtool's notation: `1x5` is six times 1."""

Series = dict[str, str]


class Case(NamedTuple):
    alert: str
    what: str
    series: Series
    fires: bool
    project: str = ""


def fires(alert: str, what: str, project: str = "", **series: Any) -> Case:
    """The alert fires, of `project` where it says of which."""
    return Case(alert, what, _named(series), True, project)


def quiet(alert: str, what: str, **series: Any) -> Case:
    return Case(alert, what, _named(series), False)


def _named(series: dict[str, Any]) -> Series:
    """Prefixes each name with `hearken_`; a dictionary maps labels to values."""
    named: Series = {}
    for name, values in series.items():
        for labels, each in (values if isinstance(values, dict) else {"": values}).items():
            named[f"hearken_{name}{{{labels}}}"] = each
    return named


A, B = 'instance="a"', 'instance="b"'
OWN, SHOP = 'project="default"', 'project="shop"'
POST = 'route="/v1/feedback", method="POST"'
QUICK, SLOW, ALL = 'le="0.1"', 'le="1"', 'le="+Inf"'
PUBLISHED, FAILED, WRITTEN = 'outcome="published"', 'outcome="failed"', 'outcome="written"'
PROBE, ORPHAN = 'reason="probe"', 'reason="parent_rolled_back"'

CASES = [
    fires("CannotAnswer", "no engine in rotation", engines_in_rotation={A: "0x30", B: "0x30"}),
    fires("CannotAnswer", "no serving process"),
    quiet("CannotAnswer", "one replica sees no engine", engines_in_rotation={A: "0x30", B: "1x30"}),
    fires("EngineOutOfRotation", "one of two is gone", engines_in_rotation={A: "2x20 1x10", B: "2x30"}),
    quiet("EngineOutOfRotation", "a restart", engines_in_rotation={A: "2x20 1x2 2x10"}),
    fires(
        "VotesFail", "two in a hundred, over the websocket",
        votes_failed_total="0+2x30", vote_seconds_count="0+98x30",
    ),
    fires(
        "VotesFail", "keys cannot be looked up",
        requests_total={f'{POST}, status="201"': "0+0x30", f'{POST}, status="503"': "0+9x30"},
    ),
    quiet(
        "VotesFail", "one in a thousand, and clients' own faults",
        votes_failed_total="0+1x30", vote_seconds_count="0+999x30",
        requests_total={f'{POST}, status="201"': "0+9x30", f'{POST}, status="403"': "0+9x30"},
    ),
    fires(
        "VotesSlow", "two in a hundred above half a second",
        vote_seconds_bucket={QUICK: "0+98x30", SLOW: "0+100x30", ALL: "0+100x30"},
    ),
    quiet(
        "VotesSlow", "all quick", vote_seconds_bucket={QUICK: "0+9x30", SLOW: "0+9x30", ALL: "0+9x30"}
    ),
    quiet("VotesSlow", "no votes", vote_seconds_bucket={QUICK: "5x30", SLOW: "5x30", ALL: "5x30"}),
    fires("Spooling", "Postgres is away", spooled_bytes={A: "0x20 9000+900x10", B: "0x30"}),
    quiet("Spooling", "Postgres restarts", spooled_bytes={A: "0x25 9000 0x5"}),
    fires("SpooledRefused", "a vote that does not fit its turn", spooled_refused_total={A: "0x25 1x5"}),
    quiet("SpooledRefused", "long ago", spooled_refused_total={A: "1x30"}),
    fires("RelayBehind", "the broker is away", relay_lag_seconds={A: "0+60x30", B: "0+60x30"}),
    quiet("RelayBehind", "a busy minute", relay_lag_seconds={A: "5x28 60 5x2"}),
    quiet("RelayBehind", "no broker"),
    fires("RelayAway", "no relay is active", relay_active={A: "0x30", B: "0x30"}),
    quiet("RelayAway", "another takes over", relay_active={A: "1x28 0 1x2"}),
    quiet("RelayAway", "no broker"),
    fires("LogLostData", "a new generation of the topic", relay_generations="0x20 1x10"),
    quiet("LogLostData", "it happened long ago", relay_generations="1x30"),
    fires("UnreadableEvents", "two dead letters", dead_letters="0x20 2x10"),
    quiet("UnreadableEvents", "retried with success", dead_letters="2x20 0x10"),
    fires("TrainerTooOld", "a newer serving's event", blocked_partitions={A: "0x10 1x20"}),
    quiet("TrainerTooOld", "the trainer is upgraded within minutes", blocked_partitions={A: "0x20 1x5 0x5"}),
    fires("TrainerAway", "no trainer is active", trainer_active={A: "1x20 0x10", B: "1x20 0x10"}),
    quiet("TrainerAway", "a standby takes over", trainer_active={A: "1x25 0 1x5"}),
    fires(
        "NotFresh", "no round of one project publishes", "shop",
        votes_waiting_seconds={OWN: "0x30", SHOP: "0+60x30"},
    ),
    quiet(
        "NotFresh", "rounds publish", votes_waiting_seconds={OWN: "0+60x5 0+60x5 0+60x5 0+60x5 0+60x5"}
    ),
    quiet("NotFresh", "too few for a round", votes_waiting_seconds={OWN: "0x30"}),
    quiet(
        "NotFresh", "one project after the other waits a little",
        votes_waiting_seconds={OWN: "0x11 700x9 0x8", SHOP: "0x20 700x9"},
    ),
    fires(
        "TrainingFails", "every round of one project", "shop",
        rounds_total={
            f"{OWN}, {FAILED}": "0x30", f"{OWN}, {PUBLISHED}": "0+2x30",
            f"{SHOP}, {FAILED}": "0+1x30", f"{SHOP}, {PUBLISHED}": "4x30",
        },
    ),
    quiet(
        "TrainingFails", "one in three",
        rounds_total={f"{OWN}, {FAILED}": "0+1x30", f"{OWN}, {PUBLISHED}": "0+2x30"},
    ),
    fires(
        "ApprovalFell", "below the previous policy", "shop",
        approval_z={
            f'{OWN}, against="base"': "4x30", f'{SHOP}, against="base"': "4x30",
            f'{SHOP}, against="previous"': "-3.5x30",
        },
    ),
    quiet("ApprovalFell", "no significant difference", approval_z={f'{OWN}, against="base"': "-1.5x30"}),
    quiet("ApprovalFell", "too few votes", thumbs={'policy="p1", value="down"': "9x30"}),
    fires(
        "SwapFails", "a policy does not go live", "shop", promotion_waiting_seconds={SHOP: "_x20 0+60x10"}
    ),
    fires("SwapFails", "one replica cannot follow", policies_unserved={A: "0x20 1x10", B: "0x30"}),
    quiet(
        "SwapFails", "a slow load",
        promotion_waiting_seconds={OWN: "0x26 60 90 0x3"}, policies_unserved="0x30",
    ),
    fires("PolicyRefused", "the first ever", policies_rejected_total={PROBE: "0x25 1x5"}),
    fires("PolicyRefused", "before the first scrape", policies_rejected_total={PROBE: "_x25 1x5"}),
    quiet("PolicyRefused", "long ago", policies_rejected_total={PROBE: "1x30"}),
    fires("PolicyTampered", "its files changed", policies_damaged="0x28 1x2"),
    fires("PolicyTampered", "an engine held something else", adapters_replaced_total="0x25 1x5"),
    quiet("PolicyTampered", "long ago", policies_damaged="0x30", adapters_replaced_total="1x30"),
    quiet("PolicyRefused", "its parent was rolled back", policies_rejected_total={ORPHAN: "0x25 1x5"}),
    fires("ExportFails", "the store refuses", exports_total={FAILED: "0+1x30", WRITTEN: "3x30"}),
    quiet("ExportFails", "a restart of the store", exports_total={FAILED: "0x20 1x10", WRITTEN: "3x30"}),
    quiet("ExportFails", "it works again", exports_total={FAILED: "0+1x24 24x6", WRITTEN: "0x24 1+1x6"}),
    fires(
        "VotesQuarantined", "a flood of one team's page, seen by two replicas", "shop",
        votes_held={OWN: "0x30", f"{SHOP}, {A}": "_x28 400x2", f"{SHOP}, {B}": "_x28 400x2"},
    ),
    quiet(
        "VotesQuarantined", "a few votes in each", votes_held={OWN: "60x30", SHOP: "60x30"},
        raters_held={OWN: "2x30", SHOP: "2x30"},
    ),
    quiet("VotesQuarantined", "somebody has decided", votes_held={OWN: "0x30", SHOP: "400x20 stale"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.what}")
def test_an_alert(promtool: str, tmp_path: Path, case: Case) -> None:
    rule = RULES[f"Hearken{case.alert}"]
    fired = {
        "exp_labels": rule["labels"] | ({"project": case.project} if case.project else {}),
        "exp_annotations": {
            "summary": rule["annotations"]["summary"].replace("{{ $labels.project }}", case.project)
        },
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{MINUTES}m",
                "alertname": rule["alert"],
                "exp_alerts": [fired] if case.fires else [],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    for shown in (True, False):
        assert {f"Hearken{case.alert}" for case in CASES if case.fires is shown} == set(RULES)
