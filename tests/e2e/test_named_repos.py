"""`repos` of a configuration: what it names is in the job, at its place, without `dstack init`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.api import LocalRepo, Task
from dstack.errors import ConfigurationError
from dstack.spec.repos import RepoSource
from tests.e2e.home import Home
from tests.git_servers import GitOverHttp, commit, git, make_remote

pytestmark = pytest.mark.server("shared")

SHOW = "echo $DSTACK_REPO_DIR; cat $DSTACK_REPO_DIR/main.py; ls -A"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout whose remote is `project.git` beside it."""
    return make_remote(tmp_path, {"main.py": b"print('one')\n"})


@pytest.fixture
def private(home: Home, work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitOverHttp]:
    """A server that opens the remote to a token alone, which `gh` has on this machine."""
    program = home.write("bin/gh", "#!/bin/sh\necho token-of-gh\n")
    program.chmod(0o755)
    home.env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", home.env["PATH"])
    with GitOverHttp(work.parent, token="token-of-gh") as server:
        git(work, "remote", "set-url", "origin", server.url_of("project.git"))
        yield server


def test_private_remote_is_cloned_to_its_place_with_credentials_that_are_found(
    home: Home, work: Path, private: GitOverHttp
) -> None:
    url, first = private.url_of("project.git"), git(work, "rev-parse", "HEAD")
    home.write("t.yml", f"type: task\nrepos: ['{url}:src/app']\ncommands: ['{SHOW}']\n")
    done = home.cli("apply", "-f", "t.yml", "-y")
    folder, *rest = done.stdout.splitlines()
    assert (done.returncode, rest) == (0, ["print('one')", "src"]) and folder.endswith("/src/app")
    assert f"{url} at its HEAD at `src/app`" in " ".join(done.stderr.split())
    source = f"{{url: '{url}', branch: main, hash: {first[:9]}}}"
    home.write("t.yml", f"type: task\nrepos: [{source}]\ncommands: ['git rev-parse HEAD; git branch --show-current']\n")
    assert home.cli("apply", "-f", "t.yml", "-y").stdout == f"{first}\nmain\n"
    home.write("t.yml", f"type: task\nrepos: [{source}]\ncommands: ['ls -A | wc -l']\n")
    without = home.cli("apply", "-f", "t.yml", "-y", "--no-repo")
    assert without.stdout.strip() == "0" and "none; run `dstack init`" in without.stderr
    home.write("t.yml", f"type: task\nrepos: [{{url: '{url}', branch: mian}}]\ncommands: [ls]\n")
    wrong = home.cli("apply", "-f", "t.yml", "-y")
    assert wrong.returncode == 1 and "has no branch or tag `mian`; it has `main`" in wrong.stderr


def test_folder_beside_the_configuration_comes_with_its_differences_or_as_it_is(
    home: Home, work: Path, private: GitOverHttp, tmp_path: Path
) -> None:
    commit(work, {"main.py": b"print('here')\n"})
    (tmp_path / "configs").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/main.py").write_text("print('plain')\n")
    runs = home.client().runs
    configuration_path = tmp_path / "configs/t.yml"

    def printed(source: str, **fields: str) -> list[str]:
        task = Task(commands=[SHOW, *fields.values()], repos=[RepoSource.model_validate(source)])
        return b"".join(runs.submit(task, configuration_path=configuration_path).logs()).decode().splitlines()

    checkout = printed(f"../{work.name}:src", status="cd src; git status -s")
    assert checkout[0].endswith("/src") and checkout[1:] == ["print('here')", "src", " M main.py"]
    plain = printed("../plain:src")
    assert plain[0].endswith("/src") and plain[1:] == ["print('plain')", "src"]
    assert printed("../plain")[1:] == ["print('plain')", "main.py"]


def test_given_repo_wins_over_the_one_that_the_configuration_names(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/main.py").write_text("print('mine')\n")
    task = Task(commands=[SHOW], repos=[RepoSource(local_path="/nowhere", path="src")])
    run = home.client().runs.submit(task, repo=LocalRepo.from_dir(tmp_path / "mine"))
    assert b"".join(run.logs()).decode().splitlines()[1:] == ["print('mine')", "main.py"]
    with pytest.raises(ConfigurationError, match="There is no folder `/nowhere`"):
        home.client().runs.submit(task)
