"""Folders that nobody else may look into."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.kit.folders import make_private


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_a_folder_and_those_made_above_it_are_private_under_any_umask(tmp_path: Path) -> None:
    make_private(tmp_path / "home" / "server" / "machines")
    assert [mode(tmp_path / path) for path in ("home", "home/server", "home/server/machines")] == [0o700] * 3


def test_an_open_folder_is_closed_with_those_up_to_the_given_one(tmp_path: Path) -> None:
    folder = tmp_path / "user" / "home" / "server"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    make_private(folder, within=tmp_path / "user" / "home")
    assert [mode(folder), mode(folder.parent), mode(folder.parent.parent)] == [0o700, 0o700, 0o755]


def test_a_file_in_the_place_of_a_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o644)
    make_private(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o644
