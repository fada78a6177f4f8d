"""Rules, dashboard and the table of metrics speak only of metrics that the device has, and Prometheus takes them."""

import json
import re
import subprocess

import pytest

from actors.ports.metrics import FIGURES
from actors.status import ALERT_NAMES
from tests import needs
from tests.places import ROOT
from tools.metrics import table

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "holdfast.json"
NAMES = {figure.exposed_name for figure in FIGURES}


def named(text: str) -> set[str]:
    return set(re.findall(r"\bholdfast_[a-z_]+\b", text))


def promtool(*words: str) -> str:
    done = subprocess.run(
        [needs.tool("promtool", "prometheus"), *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_the_example_that_scrapes():
    assert "rules found" in promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_the_rules_fire_when_they_should_and_not_before():
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@pytest.mark.parametrize("path", [RULES, PROMETHEUS / "alerts.test.yml", BOARD], ids=lambda path: path.name)
def test_every_metric_that_is_named_is_one_of_the_devices(path):
    found = named(path.read_text())
    assert found
    assert found <= NAMES


def test_every_alert_that_a_rule_asks_for_is_one_of_the_devices():
    asked = set(re.findall(r'alert="(\w+)"', RULES.read_text()))
    assert asked
    assert asked <= set(ALERT_NAMES)


def test_the_board_is_whole():
    board = json.loads(BOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_table_in_the_docs_is_that_of_the_code():
    """`python -m tools.metrics` writes it anew."""
    assert table() in (ROOT / "docs" / "metrics.md").read_text()
