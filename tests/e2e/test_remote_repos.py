"""A Git remote, cloned by the job's machine, with what is not pushed yet on top."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.api import RemoteRepo, Run, Task, VirtualRepo
from dstack.errors import ConfigurationError, RepoDoesNotExistError
from tests.e2e.home import Home
from tests.git_servers import SSHD, GitOverHttp, GitOverSsh, commit, git, make_remote

pytestmark = pytest.mark.server("shared")

FILES = {"main.py": b"print('one')\n", "data/old.bin": bytes(range(256)), "gone.txt": b"gone\n", "same.txt": b"same\n"}
LIST = "find . -path ./.git -prune -o -type f -print | LC_ALL=C sort"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A checkout whose remote is `project.git` beside it."""
    return make_remote(tmp_path, FILES)


@pytest.fixture
def public(work: Path) -> Iterator[GitOverHttp]:
    with GitOverHttp(work.parent) as server:
        git(work, "remote", "set-url", "origin", server.url_of("project.git"))
        yield server


def output_of(home: Home, repo: RemoteRepo | VirtualRepo | None, *commands: str, **fields: object) -> str:
    task = Task(commands=list(commands), **fields)  # type: ignore[arg-type]
    run = home.client().runs.submit(task, repo=repo)
    return finished(run)


def finished(run: Run) -> str:
    text = b"".join(run.logs()).decode()
    run.refresh()
    assert run.status == "done", f"{run.detail}\n{text}\n{b''.join(run.logs(diagnose=True)).decode()}"
    return text


def test_a_checkout_is_cloned_and_what_differs_here_lies_over_it(home: Home, work: Path, public: GitOverHttp) -> None:
    shared = git(work, "rev-parse", "HEAD")
    unpushed = commit(work, {"main.py": b"print('two')\n", "committed.txt": b"not pushed\n"})
    (work / ".gitignore").write_text("*.log\n")
    (work / "noise.log").write_text("ignored")
    (work / "gone.txt").unlink()
    (work / "data" / "new.bin").write_bytes(bytes(reversed(range(256))))
    (work / "data" / "old.bin").write_bytes(b"\0changed\xff")
    (work / "data" / "run.sh").write_text("echo runs\n")
    (work / "data" / "run.sh").chmod(0o755)
    (work / "link").symlink_to("data/run.sh")
    (work / "same.txt").rename(work / "data" / "moved.txt")
    (work / "same.txt").symlink_to("data")
    (work / "inner").mkdir()
    git(work / "inner", "init", "-q")
    (work / "inner" / "own.txt").write_text("own\n")
    repo = RemoteRepo.from_dir(work / "data")
    assert (repo.repo_hash, repo.repo_branch) == (shared, "main") and repo.repo_hash != unpushed
    home.client().repos.init(repo)
    sums = "md5sum data/old.bin data/new.bin | cut -d' ' -f1"
    text = output_of(
        home,
        repo,
        LIST,
        "cat main.py same.txt/moved.txt inner/own.txt",
        "./link",
        sums,
        "git rev-parse HEAD",
        "git status -s",
    )
    expected = f"""\
./.gitignore
./committed.txt
./data/moved.txt
./data/new.bin
./data/old.bin
./data/run.sh
./inner/own.txt
./main.py
print('two')
same
own
runs
{_md5(work / "data" / "old.bin")}
{_md5(work / "data" / "new.bin")}
{shared}
"""
    assert text.startswith(expected)
    assert "D gone.txt" in text and "M main.py" in text


def _md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_a_url_gives_the_newest_commit_of_a_branch_or_the_one_that_is_named(
    home: Home, work: Path, public: GitOverHttp
) -> None:
    first = git(work, "rev-parse", "HEAD")
    git(work, "remote", "set-url", "--push", "origin", str(work.parent / "project.git"))
    second = commit(work, {"main.py": b"print('two')\n"})
    git(work, "push", "-q", "origin", "main")
    url = public.url_of("project.git")
    by_branch, by_hash = RemoteRepo.from_url(url, "main"), RemoteRepo.from_url(url, repo_hash=first)
    by_short_hash = RemoteRepo.from_url(url, "main", first[:9])
    home.client().repos.init(by_branch)
    show = "cat main.py; git rev-parse HEAD"
    assert output_of(home, by_branch, show) == f"print('two')\n{second}\n"
    assert output_of(home, by_hash, show) == f"print('one')\n{first}\n"
    assert output_of(home, by_short_hash, show, "git branch --show-current") == f"print('one')\n{first}\nmain\n"


def test_a_token_opens_a_private_remote_and_stays_with_the_server(home: Home, work: Path) -> None:
    with GitOverHttp(work.parent, token="s3cret-token") as server:
        repo = RemoteRepo.from_url(server.url_of("project.git"), "main")
        client = home.client()
        with pytest.raises(ConfigurationError, match="No credentials open"):
            client.repos.init(repo)
        with pytest.raises(ConfigurationError, match="with no credentials and with the token that was given: "):
            client.repos.init(repo, oauth_token="wrong")
        assert not client.repos.is_initialized(repo)
        client.repos.init(repo, oauth_token="s3cret-token")
        text = output_of(home, repo, "cat main.py", "cat .git/config", "env")
    assert "print('one')" in text and "s3cret-token" not in text
    for path in home.data.rglob("*.db*"):
        assert b"s3cret-token" not in path.read_bytes(), path


def test_the_token_of_gh_is_found(home: Home, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = home.write("bin/gh", '#!/bin/sh\n[ "$*" = "auth token --hostname 127.0.0.1" ] && echo token-of-gh\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with GitOverHttp(work.parent, token="token-of-gh") as server:
        repo = RemoteRepo.from_url(server.url_of("project.git"), "main")
        home.client().repos.init(repo)
        assert output_of(home, repo, "cat same.txt") == "same\n"


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)")
def test_a_key_opens_a_remote_over_ssh(home: Home, work: Path) -> None:
    with GitOverSsh(work.parent / "sshd") as server:
        git(work, "remote", "set-url", "origin", server.url_of(work.parent / "project.git"))
        (work / "main.py").write_text("print('here')\n")
        repo = RemoteRepo.from_dir(work)
        client = home.client()
        with pytest.raises(ConfigurationError, match=r"No credentials open .*: there is no key for it"):
            client.repos.init(repo)
        client.repos.init(repo, git_identity_file=server.private_key)
        assert output_of(home, repo, "cat main.py same.txt") == "print('here')\nsame\n"


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)")
def test_the_default_key_of_ssh_is_found(home: Home, work: Path) -> None:
    with GitOverSsh(work.parent / "sshd") as server:
        home.write(".ssh/id_ed25519", server.private_key.read_text()).chmod(0o600)
        repo = RemoteRepo.from_url(server.url_of(work.parent / "project.git"), "main")
        home.client().repos.init(repo)
        assert output_of(home, repo, "cat same.txt") == "same\n"


def test_a_remote_that_is_not_initialized_is_refused_by_name(home: Home, public: GitOverHttp) -> None:
    repo = RemoteRepo.from_url(public.url_of("project.git"), "main")
    with pytest.raises(
        RepoDoesNotExistError, match=rf"project.git` is not initialized in the project `{home.project}`"
    ):
        home.client().runs.submit(Task(commands=["true"]), repo=repo)
    assert home.runs() == []


def test_a_branch_that_is_not_there_is_told_with_those_that_are(home: Home, public: GitOverHttp) -> None:
    repo = RemoteRepo.from_url(public.url_of("project.git"), "mian")
    with pytest.raises(ConfigurationError, match="has no branch or tag `mian`; it has `main`"):
        home.client().repos.init(repo)


def test_a_remote_that_is_gone_when_the_job_starts_is_the_reason_of_its_end(home: Home, work: Path) -> None:
    with GitOverHttp(work.parent) as server:
        repo = RemoteRepo.from_url(server.url_of("project.git"), "main")
        home.client().repos.init(repo)
    run = home.client().runs.submit(Task(commands=["true"]), repo=repo)
    for _ in run.changes():
        pass
    assert run.status == "failed" and "project.git` could not be cloned" in run.detail


def test_a_program_makes_files_for_a_job(home: Home) -> None:
    repo = VirtualRepo("made-up")
    repo.add_file("deep/settings.json", b'{"a": 1}')
    repo.add_file_from_package("json", "decoder.py")
    text = output_of(home, repo, "cat deep/settings.json; echo; head -c 3 decoder.py; echo; echo $DSTACK_REPO_ID")
    assert text == '{"a": 1}\n"""\nmade-up\n'


@pytest.mark.parametrize("repo_id", ["made-up", "team/x", ".."])
def test_a_program_may_initialize_its_files_under_any_id(home: Home, repo_id: str) -> None:
    repos, repo = home.client().repos, VirtualRepo(repo_id)
    assert not repos.is_initialized(repo)
    repos.init(repo)
    assert repos.is_initialized(repo) and not repos.is_initialized(VirtualRepo(f"{repo_id}x"))


def test_init_on_the_command_line_lets_runs_use_the_checkout(home: Home, work: Path, public: GitOverHttp) -> None:
    (work / "new.txt").write_text("new\n")
    (work / ".dstack.yml").write_text("type: task\nname: one\ncommands: [cat new.txt same.txt]\n")
    shutil.move(str(work), str(home.path / "work"))
    said = home.cli("init", "work")
    assert said.returncode == 0 and "may use `http://127.0.0.1:" in said.stderr
    done = home.cli("apply", "-f", "work/.dstack.yml", "--repo", "work", "-y")
    assert (done.returncode, done.stdout) == (0, "new\nsame\n")
