"""Rules, alerts and the dashboard as files: checked and tested by promtool, complete, and told of in the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Route

from server.app import PARTS
from server.http.request_log import endpoint_name
from server.metrics import Metrics
from tests.deploy.prometheus import (
    DASHBOARD,
    FOLDER,
    dashboard_queries,
    needs_promtool,
    panels,
    rules,
)
from tests.live_server import ROOT

ALERTS = [rule for rule in rules() if "alert" in rule]
TESTS = yaml.safe_load((FOLDER / "tests" / "alerts_test.yml").read_text("utf-8"))["tests"]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def families() -> set[str]:
    """The metrics of the service, by the names that Prometheus has for them."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics().registry.collect()
    }


# ---- the rules ---------------------------------------------------------------------------------------------
@needs_promtool
def test_the_configuration_and_the_rules_are_valid() -> None:
    run = promtool("check", "config", "prometheus.yml")
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    run = promtool("test", "rules", "tests/alerts_test.yml")
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 0.05", "> 0.5"),
        ("star_engine_up == 0", "star_engine_up == 2"),
        ("[15m]) > 2", "[15m]) > 20"),
        ('reason="queue_full"', 'reason="draining"'),
        ("seconds > 10 and", "seconds > 100 and"),
        ("up{job", "down{job"),
    ],
)
def test_a_rule_that_was_changed_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "prometheus")
    alerts = copy / "rules" / "alerts.yml"
    assert old in alerts.read_text("utf-8")
    alerts.write_text(alerts.read_text("utf-8").replace(old, new), "utf-8")
    assert promtool("test", "rules", "tests/alerts_test.yml", folder=copy).returncode == 1


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_tested_and_has_its_paragraph(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    cases = [
        case
        for test in TESTS
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in cases), "nothing makes it fire"
    assert any(not case["exp_alerts"] for case in cases), "nothing keeps it silent"
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    paragraph = re.search(rf"^### {name}\n\n(.+?)(?=^#|\Z)", OPERATIONS, re.M | re.S)
    assert paragraph
    for word in ("**Means**", "**Look**", "**Do**"):
        assert word in paragraph[1]


def test_every_recording_rule_is_tested_or_tests_an_alert() -> None:
    tested = " ".join(
        [
            *(case["expr"] for test in TESTS for case in test.get("promql_expr_test", [])),
            *(r["expr"] for r in ALERTS),
        ]
    )
    assert [
        rule["record"] for rule in rules() if "record" in rule and rule["record"] not in tested
    ] == []


MAKE_NONE = ("/read", "/v1/files", "/v1/batches")
"""Beginnings of the routes that take a POST and make no image before they answer."""


def test_the_rules_count_every_route_that_makes_images() -> None:
    """Also those that the OpenAPI document leaves out, such as Azure's paths."""
    posts = {
        endpoint_name(route)
        for part in PARTS
        for route in part.router.routes
        if isinstance(route, Route)
        and "POST" in (route.methods or ())
        and not route.path.startswith(MAKE_NONE)
    }
    queries = [*(str(rule["expr"]) for rule in rules()), *dashboard_queries().values()]
    patterns = {
        pattern for query in queries for pattern in re.findall(r'endpoint=~"([^"]*)"', query)
    }
    assert len(patterns) == 1
    (pattern,) = patterns
    assert len(posts) >= 8
    assert {path for path in posts if not re.fullmatch(pattern, path)} == set()
    assert not any(
        re.fullmatch(pattern, other) for other in ("/", "/metrics", "/v1/images/files/{name}")
    )


def test_every_metric_is_shown_and_explained() -> None:
    shown = " ".join([*dashboard_queries().values(), *(str(rule["expr"]) for rule in rules())])
    hidden = {
        name for name in families() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)
    }
    assert not hidden, "on no panel and in no rule"
    assert set(re.findall(r"^\| `(star_\w+)`", OPERATIONS, re.M)) == families()


# ---- the dashboard -----------------------------------------------------------------------------------------
def test_the_dashboard_is_grafanas() -> None:
    """Read by Grafana's own types and written again, nothing is lost: every field is one that Grafana knows."""
    pytest.importorskip(
        "grafana_foundation_sdk", reason="Grafana's types are not installed: TOOLS=test,deploy"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()

    def through_grafana(document: dict[str, Any]) -> Any:
        return json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))

    document = json.loads(DASHBOARD.read_text("utf-8"))
    assert lost(document, through_grafana(document)) == []
    document["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    assert lost(document, through_grafana(document)) == ["/panels/1/fieldConfig/defaults/units"]


def lost(before: Any, after: Any, place: str = "") -> list[str]:
    """Where ``before`` has something that ``after`` has not."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            found
            for key, value in before.items()
            for found in (
                lost(value, after[key], f"{place}/{key}") if key in after else [f"{place}/{key}"]
            )
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [found for i, (one, other) in pairs for found in lost(one, other, f"{place}/{i}")]
    return [] if before == after else [place]


def test_panels_lie_side_by_side_and_say_what_they_show() -> None:
    everything = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert all(panel["description"].endswith(".") for panel in panels())
    assert all(
        target["datasource"]["uid"] == "${datasource}"
        for panel in panels()
        for target in panel["targets"]
    )


def test_panels_of_histograms_show_exemplars() -> None:
    """Once each: of several quantiles the highest, since the exemplars are those of the buckets in any case."""
    for panel in panels():
        durations = [target for target in panel["targets"] if "_bucket" in target["expr"]]
        if durations:
            assert [bool(target.get("exemplar")) for target in durations] == [
                *([False] * (len(durations) - 1)), True,
            ], panel["title"]  # fmt: skip


def test_grafana_finds_the_data_source_and_the_dashboard() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text("utf-8"))[
        "datasources"
    ]
    document = json.loads(DASHBOARD.read_text("utf-8"))
    chosen = next(v for v in document["templating"]["list"] if v["type"] == "datasource")
    assert (chosen["query"], chosen["current"]["value"]) == (source["type"], source["uid"])
