"""What makes `ssh <run>` work, and leaves the user's own configuration alone."""

import os
import pwd
import subprocess
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest

from dstack.api import _ssh_config
from dstack.api._ssh_config import Host
from dstack.errors import ConfigurationError

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


def test_path_of_a_drive_is_written_as_the_openssh_of_windows_reads_it() -> None:
    path = PureWindowsPath(r"C:\Users\Ms % Doe\.dstack\ssh\id_ed25519")
    assert _ssh_config._as_word(path) == '"C:/Users/Ms %% Doe/.dstack/ssh/id_ed25519"'


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
    (home / ".ssh").write_text("no folder")
    _ssh_config.add(host)
    assert (home / ".ssh").read_text() == "no folder"
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


@pytest.mark.parametrize(
    "content", [b"# Caf\xe9\nHost mine\n", b"# mine\r\nHost mine\r\n", b"\r", b"\xff", b"Host mine"]
)
def test_configuration_keeps_its_bytes_and_ends_of_lines(home: Path, host: Host, content: bytes) -> None:
    (home / ".ssh").mkdir()
    config = home / ".ssh" / "config"
    config.write_bytes(content)
    for _ in range(2):
        _ssh_config.add(host)
        end = b"\r\n" if b"\r\n" in content else b"\n"
        assert config.read_bytes() == INCLUDE.strip().encode() + end + content


@pytest.mark.parametrize("name", ['100%h "quoted"', "back\\slash", "caf\udce9"])
def test_openssh_understands_paths_of_any_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    host = Host("hello", "127.0.0.1", 2222, "job-1", home / "key", "ssh-ed25519 AAAA")
    _ssh_config.add(host)
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(home / ".ssh" / "config"), "hello"], check=True, capture_output=True
    ).stdout
    known = os.fsencode(home / ".dstack" / "ssh" / "known_hosts")
    assert b"userknownhostsfile " + known + b"\n" in shown
    assert b"identityfile " + os.fsencode(home / "key").replace(b"%", b"%%") + b"\n" in shown, "its tokens come later"
    _ssh_config.remove(host)
    assert own(home) == ""


def test_hosts_of_killed_processes_are_forgotten(home: Path, host: Host) -> None:
    living = replace(host, name="other", user="job-2")
    _ssh_config.add(host)
    _ssh_config.add(living)
    _ssh_config.keep_only({"other"})
    assert own(home) == living.block()
    assert (home / ".dstack" / "ssh" / "known_hosts").read_text() == "dstack-job-2 ssh-ed25519 AAAA\n"


@pytest.mark.parametrize(
    "written",
    [
        "Host train",
        "host=train",
        'Host "train" other',
        "Host a b train\n  User me",
        "Include conf.d/*\n",
        "\tHOST\ttrain",
    ],
)
def test_name_of_a_host_of_the_user_is_refused_and_never_shadowed(home: Path, written: str) -> None:
    (home / ".ssh" / "conf.d").mkdir(parents=True)
    (home / ".ssh" / "config").write_bytes(b"# Caf\xe9\n" + written.encode())
    (home / ".ssh" / "conf.d" / "work").write_text("Host train\n" if "Include" in written else "")
    with pytest.raises(ConfigurationError, match=r"cannot be called `train`: `.*` has a host of that name"):
        _ssh_config.check_free("train")
    assert _ssh_config.host_name("train", 0, 0) == "train.dstack"


def test_name_in_the_systems_list_of_hosts_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "hosts").write_text("# a train\n10.0.0.1 db.example.com db # old\n")
    monkeypatch.setattr(_ssh_config, "HOSTS_FILE", home / "hosts")
    with pytest.raises(ConfigurationError, match="has a host of that name"):
        _ssh_config.check_free("db")
    for name in ("train", "old"):
        _ssh_config.check_free(name)


def test_names_of_runs_and_patterns_are_no_hosts_of_the_user(home: Path, host: Host) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host * !train tr?in\n  User me\n")
    _ssh_config.add(replace(host, name="train"))
    _ssh_config.check_free("train")
    assert _ssh_config.host_name("train", 0, 0) == "train"
    assert _ssh_config.host_name("train", 1, 2) == "train-1-2"
