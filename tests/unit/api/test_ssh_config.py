"""What makes `ssh <run>` work, and leaves the user's own configuration alone."""

import os
import pwd
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dstack.api import _ssh_config
from dstack.api._ssh_config import Host

INCLUDE = "Include ~/.dstack/ssh/config\n"


@pytest.fixture
def host(home: Path) -> Host:
    return Host("hello", "127.0.0.1", 2222, "job-1", home / "a key", "ssh-ed25519 AAAA")


def own(home: Path) -> str:
    return (home / ".dstack" / "ssh" / "config").read_text()


def test_a_first_line_is_added_once_and_the_rest_stays(home: Path, host: Host) -> None:
    config = home / ".ssh" / "config"
    config.parent.mkdir()
    config.write_text("Host mine\n  User me")
    config.chmod(0o644)
    _ssh_config.add(host)
    _ssh_config.add(replace(host, name="other"))
    assert config.read_text() == INCLUDE + "Host mine\n  User me"
    assert config.stat().st_mode & 0o777 == 0o644


def test_a_missing_configuration_is_made_private(home: Path, host: Host) -> None:
    _ssh_config.add(host)
    config = home / ".ssh" / "config"
    assert (config.read_text(), config.stat().st_mode & 0o777) == (INCLUDE, 0o600)
    assert config.parent.stat().st_mode & 0o777 == 0o700


def test_a_linked_configuration_stays_a_link(home: Path, host: Host) -> None:
    (home / ".ssh").mkdir()
    (home / "dotfile").write_text("# mine\n")
    (home / ".ssh" / "config").symlink_to(home / "dotfile")
    _ssh_config.add(host)
    assert (home / ".ssh" / "config").is_symlink()
    assert (home / "dotfile").read_text() == INCLUDE + "# mine\n"


def test_a_configuration_that_cannot_be_changed_is_told_and_left(
    home: Path, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_bytes(b"\xff")
    _ssh_config.add(host)
    assert (home / ".ssh" / "config").read_bytes() == b"\xff"
    assert "`ssh hello` will not work" in caplog.text


def test_openssh_understands_what_is_written(home: Path, host: Host) -> None:
    _ssh_config.add(host)
    config = str(home / ".dstack" / "ssh" / "config")
    shown = subprocess.run(["ssh", "-G", "-F", config, "hello"], check=True, capture_output=True, text=True).stdout
    for line in (
        "hostname 127.0.0.1",
        "port 2222",
        "user job-1",
        f"identityfile {home}/a key",
        "hostkeyalias dstack-job-1",
    ):
        assert line in shown
    known = str(home / ".dstack" / "ssh" / "known_hosts")
    assert Path(known).read_text() == "dstack-job-1 ssh-ed25519 AAAA\n"


def test_removing_takes_away_that_host_only(home: Path, host: Host) -> None:
    other = replace(host, name="other", user="job-2")
    _ssh_config.add(host)
    _ssh_config.add(other)
    _ssh_config.remove(host)
    _ssh_config.remove(host)
    assert own(home) == other.block()


def test_an_older_run_does_not_take_away_a_newer_one_of_its_name(home: Path, host: Host) -> None:
    newer = replace(host, user="job-2")
    _ssh_config.add(host)
    _ssh_config.add(newer)
    _ssh_config.remove(host)
    assert own(home) == newer.block()


def test_command_names_the_configuration_where_openssh_looks_in_another_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _ssh_config.command("hello") == "ssh -F ~/.ssh/config hello"
    monkeypatch.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    assert _ssh_config.command("hello") == "ssh hello"
