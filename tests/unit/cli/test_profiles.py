"""Files of profiles: a profile is found by its name, and each mistake is reported with its file and place."""

from pathlib import Path

import pytest

from .conftest import Cli
from .test_bad_input import assert_refused

TASK = "type: task\ncommands: [echo hello]\n"


def write(folder: Path, text: str) -> None:
    (folder / ".dstack").mkdir(exist_ok=True)
    (folder / ".dstack/profiles.yml").write_text(text, encoding="utf-8")
    (folder / "run.yml").write_text(TASK)


def test_profile_that_is_not_there_is_told_with_the_nearest(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, "profiles: [{name: my profile/ü}]\n")
    said = (
        "error: There is no profile `my profile/u`; did you mean `my profile/ü`?\n"
        "hint: Add it to `.dstack/profiles.yml` or `~/.dstack/profiles.yml`\n"
    )
    assert_refused(cli, "apply", "-y", "-f", "run.yml", "--profile", "my profile/u", said=said)


def test_mistake_in_a_file_of_profiles_is_reported_with_its_place(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    write(work, "profiles:\n- {name: a, max_price: 1}\n- {name: b, spot_policy: spott}\n")
    write(tmp_path, "profiles: [{name: a, max_prise: 1}]\n")
    monkeypatch.chdir(work)
    first = (
        "error: .dstack/profiles.yml:3:13: expected one of `spot`, `on-demand` or `auto`, found the text `spott`; "
        "did you mean `spot`?\n"
    )
    assert_refused(cli, "apply", "-y", "-f", "run.yml", "--profile", "a", said=first)
    write(work, "profiles: [{name: b}]\n")
    own = "error: ~/.dstack/profiles.yml:1:22: unknown field `max_prise`; did you mean `max_price`?\n"
    assert_refused(cli, "apply", "-y", "-f", "run.yml", "--profile", "a", said=own)
