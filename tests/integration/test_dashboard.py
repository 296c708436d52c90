"""The dashboard and the alerts query metrics that the processes export, in valid PromQL."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import httpx
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from feedback.backlog import backlog
from schemas.errors import Reason
from tests.integration.test_alerts import ALERTS, RULES
from tests.scrape import page
from tests.service import Service
from trainer.records.approval_metrics import approval_metrics
from trainer.records.metrics import training_metrics

DASHBOARD = json.loads((ALERTS.parents[1] / "grafana" / "hearken.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ANNOTATIONS = {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
EXPRESSIONS = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *ANNOTATIONS.values(),
]


RENAMED = {
    "hearken_streams": "hearken_requests_in_flight",
    "hearken_first_token_seconds": "hearken_time_to_first_token_seconds",
    "hearken_freshness_seconds": "hearken_feedback_to_live_seconds",
    "hearken_relay_oldest_seconds": "hearken_relay_lag_seconds",
    "hearken_log_unreadable": "hearken_dead_letters",
    "hearken_log_waiting": "hearken_blocked_partitions",
    "hearken_approval_lead": "hearken_approval_z",
}
"""Old name of a metric: new name. The old names are exported for one release."""


def exported(service: Service, database_url: str) -> dict[str, Metric]:
    """Returns the metrics of serving, relay and trainer by name."""
    trainer = training_metrics(database_url, "default"), approval_metrics(database_url, "default")
    relay = backlog(database_url, "hearken.feedback.v1")
    pages = httpx.get(f"{service.url}/metrics").text, page(relay, *trainer)
    return {family.name: family for text in pages for family in text_string_to_metric_families(text)}


def test_the_alerts_of_the_release_before_still_find_their_metrics(
    service: Service, database_url: str
) -> None:
    families = exported(service, database_url)
    for old, new in RENAMED.items():
        assert families[old].type == families[new].type
        assert f"Deprecated: use {new}" in families[old].documentation
        assert [sample.value for sample in families[old].samples] == [
            sample.value for sample in families[new].samples
        ]


def test_every_queried_metric_is_exported(service: Service, database_url: str) -> None:
    shown = exported(service, database_url).keys()
    alerting = " ".join(rule["expr"] for rule in RULES.values())
    asked = set(re.findall(r"hearken_\w+", " ".join(EXPRESSIONS) + alerting))
    assert {re.sub("_(total|bucket|count|sum)$", "", name) for name in asked} - shown == set()


def test_counters_of_alerts_begin_at_0_for_every_label(service: Service) -> None:
    text = httpx.get(f"{service.url}/metrics").text
    for reason in get_args(Reason):
        assert f'hearken_policies_rejected_total{{reason="{reason}"}} 0.0' in text
    assert 'hearken_policy_swaps_total{project="default"} 0.0' in text


def test_every_expression_is_promql(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel_{at}", "expr": expression} for at, expression in enumerate(EXPRESSIONS)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_swap_is_marked_once_and_a_start_is_not(promtool: str, tmp_path: Path) -> None:
    """One replica restarts after three minutes, and the live policy changes after six."""
    shown = [
        ("p1", "a", "1x2 stale 1x1 stale"), ("p1", "b", "1x5 stale"),
        ("p2", "a", "_x6 1x9"), ("p2", "b", "_x6 1x9"),
    ]  # fmt: skip
    series = [
        {
            "series": f'hearken_live_policy{{project="default", policy="{policy}", instance="{each}"}}',
            "values": values,
        }
        for policy, each, values in shown
    ] + [{"series": 'hearken_policy_swaps_total{project="default"}', "values": "0x20"}]
    marked = [{"labels": '{project="default", policy="p2"}', "value": 1}]
    moments = {"0m": [], "3m": [], "4m": [], "6m": marked, "8m": [], "12m": []}
    cases = [
        {"expr": ANNOTATIONS["Swaps"], "eval_time": at, "exp_samples": samples}
        for at, samples in moments.items()
    ]
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": cases}]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_to_pages_of_the_console() -> None:
    known = {"", "feedback", "feedback?show=approval", "rounds", "policies/${__value.text}"}
    linked = set(re.findall(r'\$\{console\}/console(?:#/)?([^"]*)"', json.dumps(DASHBOARD)))
    assert linked == known


def test_every_panel_has_a_position_a_unit_and_a_short_title() -> None:
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"].endswith(".")
        assert 0 < len(panel["title"]) <= 32
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for one, other in combinations(places, 2):
        assert not all(
            one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
            for start, size in (("x", "w"), ("y", "h"))
        )
