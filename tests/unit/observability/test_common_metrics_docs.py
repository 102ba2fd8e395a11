"""Dashboard and alert rules use existing metrics, and every metric is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from goplugins.observability.prometheus import PrometheusFamilies

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def names():
    registry = CollectorRegistry()
    families = PrometheusFamilies(registry, "goplugins", ())
    assert families.labels == ()
    found = set()
    for family in registry.collect():
        found |= {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
        if family.type == "histogram":
            found |= {f"{family.name}_bucket", f"{family.name}_count", f"{family.name}_sum"}
    return found


def used(text):
    return set(re.findall(r"\bgoplugins_[a-z_]+", text))


def test_the_dashboard_uses_existing_metrics(names):
    dashboard = json.loads((DOCS / "monitoring/grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(dashboard["panels"]) >= 12
    assert used(" ".join(expressions)) <= names
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_alerts_use_existing_metrics(names):
    groups = yaml.safe_load((DOCS / "monitoring/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 6
    for rule in rules:
        assert used(rule["expr"]), rule["alert"]
        assert used(rule["expr"]) <= names
        assert rule["annotations"]["summary"]


def test_every_metric_is_documented(names):
    page = (DOCS / "howto/observability.md").read_text()
    counters = {name for name in names if name.endswith("_total")}
    others = {
        name for name in names if f"{name}_total" not in names and not name.endswith(("_bucket", "_count", "_sum"))
    }
    for name in (counters | others) - {"goplugins_reloads"}:
        short = re.sub(r"^goplugins_(refusals|cache)", "...", name)
        assert f"`{name}`" in page or f"`{short}`" in page, name
