"""Profiles by name, whatever characters it has."""

from pathlib import Path

import pytest

from dstack.cli.options import find_profile
from dstack.errors import ConfigurationError

NAMES = ["my profile/ü", "gpu: big", "007", "yes", "a'b", "名前"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, with a profile of each name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / ".dstack").mkdir()
    entries = ["my profile/ü", '"gpu: big"', "007", "yes", '"a\'b"', "名前"]
    lines = [f"  - {{name: {entry}, max_price: {number}}}\n" for number, entry in enumerate(entries, 1)]
    (tmp_path / ".dstack/profiles.yml").write_text(f"profiles:\n{''.join(lines)}", encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_found_by_a_name_of_any_characters(name: str) -> None:
    profile = find_profile(name)
    assert profile is not None and profile.name == name and profile.max_price == NAMES.index(name) + 1


def test_profile_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="There is no profile `my profile/u`; did you mean `my profile/ü`"):
        find_profile("my profile/u")
