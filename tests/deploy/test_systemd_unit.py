"""The systemd unit: taken by systemd's own tools, hardened within a bound, and its command is ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from actors.readiness import DISK_SILENCE_S
from actors.settings import FIELDS, Settings
from tests import needs
from tests.places import ROOT

UNIT = ROOT / "deploy" / "systemd" / "holdfast.service"
EXPOSURE_MAX = 1.8
"""Of 10; what it is now, so that a line taken out shows."""


def value(name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(found)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    tool = needs.tool("systemd-analyze", "systemd")
    return subprocess.run([tool, *words], capture_output=True, text=True, check=False)


def test_systemd_takes_the_unit(tmp_path):
    """With the Python of here in the place of the one that is installed: systemd looks whether it is there."""
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/holdfast/bin/python", sys.executable))
    done = analyze("verify", str(here))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_complain_of_a_slip(tmp_path):
    wrong = tmp_path / UNIT.name
    wrong.write_text(UNIT.read_text().replace("WatchdogSec=60", "WatchdogSecs=60"))
    assert "WatchdogSecs" in analyze("verify", str(wrong)).stderr


def test_exposure_stays_below_its_bound():
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:g}", str(UNIT))
    assert done.returncode == 0, done.stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAX


def test_its_command_is_the_devices_own():
    python, *words = value("ExecStart").split()
    assert Path(python).name == "python"
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "Run the device" in done.stdout


def test_the_watchdog_and_the_stop_leave_the_device_its_time():
    assert float(value("WatchdogSec")) > DISK_SILENCE_S, "the health must speak before the watchdog bites"
    assert float(value("TimeoutStopSec")) > Settings().shutdown_grace_seconds
    assert value("Type") == "notify"


@pytest.mark.parametrize("name", re.findall(r"^Environment=(\w+)=", UNIT.read_text(), re.MULTILINE))
def test_every_setting_that_is_given_exists(name):
    assert name.lower() in FIELDS or name == "PYTHONUNBUFFERED"


def test_a_setting_that_a_person_must_mend_is_not_tried_again():
    assert value("RestartPreventExitStatus") == "2", "the exit code of wrong settings"
    assert value("Restart") == "on-failure"
