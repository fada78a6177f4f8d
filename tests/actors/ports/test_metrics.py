"""The metrics: named by Prometheus' conventions, filled from the status, read without complaint by its own tool."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.messages import LinkState, Vision
from actors.ports.metrics import FIGURES, Metrics
from actors.status import ALERT_NAMES
from tests import needs
from tests.actors.ports.test_status_door import Device


@pytest.fixture
def page() -> str:
    return Metrics(Device().status).page().decode()


def samples(page: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(page)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_figures_are_those_of_the_status_in_base_units(page):
    seen = samples(page)
    assert seen["holdfast_pending_predictions",] == 2
    assert seen["holdfast_accepted_predictions_total",] == 9
    assert seen["holdfast_buffer_size_bytes",] == 2**20
    assert seen["holdfast_inference_seconds",] == 0.0125
    assert seen["holdfast_link_up",] == 1
    assert seen["holdfast_model_info", "m", "v1"] == 1
    assert [state.value for state in LinkState if seen["holdfast_link_state", state.value]] == ["up"]
    assert {name for name in ALERT_NAMES if seen["holdfast_alert", name]} == set()
    assert seen["process_open_fds",] > 0


def test_what_is_not_known_has_no_sample():
    device = Device()
    device.cells.vision.value = Vision()
    seen = samples(Metrics(device.status).page().decode())
    assert not [key for key in seen if key[0] in ("holdfast_model_info", "holdfast_buffer_full_in_seconds")]


def test_the_number_of_series_does_not_depend_on_what_happens(page):
    assert len([key for key in samples(page) if key[0].startswith("holdfast_")]) < 80


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_each_name_says_its_unit_or_that_it_counts(figure):
    units = ("_seconds", "_bytes", "_predictions", "_info", "_posts", "_frames", "_down", "_up", "_runs")
    yes_or_no = {"healthy", "ready", "alert", "link_state", "journal_degraded", "disk_trouble", "recovery_active"}
    assert figure.name.endswith(units) or figure.name.removeprefix("holdfast_") in yes_or_no
    assert figure.help.endswith(".")


def test_promtool_has_no_complaint(page):
    promtool = needs.tool("promtool", "prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
