"""Files never stay behind without a word: what the command line sends, and what it says of it."""

import pytest

from tests.e2e.home import Home
from tests.git_servers import git

pytestmark = pytest.mark.server("shared")


def test_a_configuration_brings_the_files_of_its_own_folder(home: Home) -> None:
    home.write("proj/part/run.yml", "type: task\ncommands: [cat main.txt]\n")
    home.write("proj/main.txt", "main\n")
    git(home.path / "proj", "init", "-q")
    without = home.cli("apply", "-y", "-f", "proj/part/run.yml")
    assert without.returncode != 0 and "Files          none; run `dstack init`" in without.stderr
    assert "The run was sent without files. Run `dstack init`" in without.stderr
    assert home.cli("init", "proj").returncode == 0
    done = home.cli("apply", "-y", "-f", "proj/part/run.yml")
    assert (done.returncode, done.stdout) == (0, "main\n")
    assert "Files          2 files (41 bytes) of ~/proj" in done.stderr


def test_a_run_that_fails_for_another_reason_gets_no_hint_about_files(home: Home) -> None:
    home.write("run.yml", "type: task\ncommands: [echo all is well, exit 3]\n")
    done = home.cli("apply", "-y", "-f", "run.yml")
    assert done.returncode == 3 and "sent without files" not in done.stderr
