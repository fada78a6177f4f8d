"""The public names of the library are there, and none drags the whole device along."""

import subprocess
import sys

import pytest

import actors


@pytest.mark.parametrize("name", actors.__all__)
def test_every_public_name_is_there(name):
    assert getattr(actors, name).__name__ == name


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match="open_pipelin'"):
        actors.open_pipelin  # noqa: B018


def test_all_and_the_rooms_are_the_same_names():
    assert sorted(actors._ROOMS) == sorted(actors.__all__)


def test_one_small_module_does_not_import_the_whole_device():
    script = "import sys, actors.settings; sys.exit('actors.pipeline' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
