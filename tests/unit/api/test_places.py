"""The client's own folders and files."""

from pathlib import Path

import pytest

from dstack.api import _places
from dstack.errors import ConfigurationError


@pytest.mark.parametrize("home", ["", "somewhere"])
def test_home_that_is_not_absolute_is_refused(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigurationError, match=f"`HOME` is not an absolute path: '{home}'"):
        _places.home()


def test_folder_of_the_client_is_in_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _places.home() == tmp_path / ".dstack"
