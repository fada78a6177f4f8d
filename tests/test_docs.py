"""What the documents name is there: commands, settings, metrics, alerts, endpoints, files."""

import re
from pathlib import Path

import click
import pytest

from actors.alerts import ALERTS
from actors.messages import LinkState
from actors.ports.metrics import FIGURES
from actors.ports.status_door import Window, create_status_app
from actors.settings import FIELDS
from actors.status import Status
from app import main
from tests.actors.ports.test_status_door import Device
from tests.places import ROOT

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "SECURITY.md"])
OTHER_VARIABLES = re.compile(
    r"CLOUD_(DATABASE|API_KEYS|RETENTION|DEVICE_REQUESTS|REQUESTS)\w*|POSTGRES_PASSWORD|HOME|PATH"
)
"""Names in capitals with an underscore that are the cloud's, the database's or the system's."""


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request) -> Path:
    path: Path = request.param
    return path


def cloud_paths() -> set[str]:
    """The cloud's routes, read from its source: each route stands in a decorator."""
    text = "".join(path.read_text() for path in (ROOT / "cloud").rglob("*.py"))
    return set(re.findall(r"\"(?:GET |HEAD |POST )?(/[a-z][\w./{}<>:-]*)\"", text))


def device_paths() -> set[str]:
    device = Device()
    return {
        rule.rule
        for rule in create_status_app(Window(device.status, device.picture, device.log), None).url_map.iter_rules()
    }


def test_every_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_page_is_reached_from_the_index():
    docs = ROOT / "docs"
    reached, ahead = {"index.md"}, ["index.md"]
    while ahead:
        found = set(re.findall(r"\]\((?:docs/)?([\w-]+\.md)", (docs / ahead.pop()).read_text())) - reached
        reached |= found
        ahead += [name for name in found if (docs / name).is_file()]
    assert {path.name for path in docs.glob("*.md")} <= reached


def test_every_command_exists(page):
    for words in re.findall(r"app\.py((?: [a-z][a-z-]*)+)", page.read_text()):
        command: click.Command = main
        for word in words.split():
            if not isinstance(command, click.Group):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"app.py{words}"
            command = found


def test_every_flag_of_the_device_exists(page):
    given = re.findall(r"app\.py run ((?:--[a-z-]+(?: [^\s`|-][^\s`|]*)? ?)+)", page.read_text())
    flags = {flag for words in given for flag in re.findall(r"--([a-z-]+)", words)}
    assert flags - {name.replace("_", "-") for name in FIELDS} - {"config", "help"} == set()


def test_every_setting_exists(page):
    named = set(re.findall(r"`([A-Z][A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", page.read_text()))
    aliases = {about.alias for about in FIELDS.values() if about.alias}
    strangers = named - {name.upper() for name in FIELDS} - aliases
    assert {name for name in strangers if not OTHER_VARIABLES.fullmatch(name)} == set()


def test_every_metric_exists(page):
    """The cloud's own are in its own page."""
    named = {name for name in re.findall(r"`(holdfast_[a-z_]+)", page.read_text()) if "_cloud_" not in name}
    keys_of_files = {"holdfast_journal"}
    assert named - {figure.exposed_name for figure in FIGURES} - keys_of_files == set()


def test_every_endpoint_exists(page):
    known = (
        device_paths()
        | {path.split("/{")[0] for path in cloud_paths()}
        | {path.split("/<")[0] for path in cloud_paths()}
    )
    named = re.findall(r"(?:GET|HEAD|POST) (/[a-z][a-z./]*)", page.read_text())
    named += re.findall(r"127\.0\.0\.1:800[01](/[a-z][a-z.]*)", page.read_text())
    assert {path.rstrip("/.") for path in named} - known == set()


def test_every_alert_is_in_the_operations_page_and_every_one_there_exists():
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    told = set(re.findall(r"`([a-z]+_[a-z_]+)`", " ".join(row.split(" | ")[0] for row in rows)))
    assert set(ALERTS) <= told
    assert told - set(ALERTS) == {"status_endpoint_unavailable", "api_key_unusable", "turned_away", "given_up"}


def test_every_key_of_the_status_that_is_named_exists():
    text = (ROOT / "docs" / "operations.md").read_text() + (ROOT / "docs" / "sizing.md").read_text()
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:s|mb|percent))`", text):
        assert name in Status.__annotations__, name
    assert {state.value for state in LinkState} >= set(re.findall(r"link `(\w+)`", text))


def test_the_tests_that_the_documents_name_are_there(page):
    for path in re.findall(r"`(tests/[\w./]+)`", page.read_text()):
        assert (ROOT / path).exists(), path
