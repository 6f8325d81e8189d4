"""What jobs find on a machine: programs, a Python and files, and nothing of what dstack itself runs in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.agent.pythons import find_pythons, versions_of
from dstack.api import RemoteRepo, Task
from tests.e2e.home import Home
from tests.e2e.tasks import on_engine, run
from tests.engines import DockerEngine
from tests.git_servers import GitOverHttp, git, make_remote

DSTACKS = f"{sys.prefix}/bin"
"""Where the programs of the environment are that these tests run in."""
THE_PYTHON = 'python -c "import sys; print(*sys.version_info[:2], sys.prefix)"'


@pytest.fixture
def path(home: Home, monkeypatch: pytest.MonkeyPatch) -> str:
    """The submitter's path, who has activated dstack's environment; another has started the server."""
    system = f"{sys.base_prefix}/bin:{home.env['PATH']}"
    home.env |= {"PATH": f"/starter:{DSTACKS}:{system}", "VIRTUAL_ENV": sys.prefix}
    home.env |= {"PYTHONPATH": str(home.path), "PIP_PREFIX": str(home.path), "UV_PROJECT_ENVIRONMENT": sys.prefix}
    assert home.cli("ps").returncode == 0
    monkeypatch.setenv("PATH", f"/submitter:{DSTACKS}:{system}")
    return ":".join(entry for entry in ("/submitter", *system.split(":")) if entry != DSTACKS)


@pytest.mark.timeout(300)  # an environment with pip, and five programs that enter it, on a slow machine
def test_a_job_and_who_comes_into_it_find_the_submitters_programs_and_a_python_of_its_own(
    home: Home, path: str
) -> None:
    version = versions_of(find_pythons({"PATH": path}))[-1]
    commands = ["env", THE_PYTHON, "pip --version", "umask", "echo up; while :; do sleep 1; done"]
    one = home.client().runs.submit(Task(commands=commands, python=version), run_name="box")
    printed = b""
    for chunk in one.logs():
        printed += chunk
        if printed.endswith(b"\nup\n"):
            break
    said = printed.decode().splitlines()
    variables = dict(line.partition("=")[::2] for line in said if "=" in line)
    own = variables["VIRTUAL_ENV"]
    assert variables["PATH"] == f"{own}/bin:{path}"
    assert not {"PYTHONPATH", "PIP_PREFIX", "UV_PROJECT_ENVIRONMENT"}.intersection(variables)
    assert (said[-4], said[-2:]) == (f"{version.replace('.', ' ')} {own}", ["0022", "up"])
    assert said[-3].startswith("pip ") and f" {own}/" in said[-3], "it comes with pip"
    assert Path(own).is_relative_to(home.data), "it goes with the job"

    assert one.attach()
    home.write(".bashrc", "PATH=/spoilt:$PATH\nalias mine='echo an alias'\n")
    ssh = ("ssh", "-F", str(home.path / ".dstack/ssh/config"))
    in_terminal = "printf 'mine\\nprintenv PATH VIRTUAL_ENV\\numask\\nexit\\n' | " + " ".join((*ssh, "-tt", "box"))
    for command in (
        (*ssh, "box", "printenv PATH VIRTUAL_ENV; umask"),
        home.command("exec", "box", "--", "sh", "-c", "printenv PATH VIRTUAL_ENV; umask"),
        ("sh", "-c", in_terminal),
    ):
        lines = home.run_program(*command, timeout_s=180).stdout.splitlines()
        assert [line for line in lines if line in (variables["PATH"], own, "0022")] == [variables["PATH"], own, "0022"]
    assert "an alias" in lines, "what the user has set up is there"
    home.run_program("sh", "-c", f"printf 'mkdir made\\n' | sftp -b - {' '.join(ssh[1:])} box")
    assert home.run_program(*ssh, "box", "stat -c %a made .").stdout.split() == ["755", "755"]
    one.stop(abort=True)
    for _ in one.changes():
        pass


def test_without_a_version_the_python_is_that_of_the_path_and_its_environment_the_jobs(
    home: Home, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.run_program(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "mine")).returncode == 0
    monkeypatch.setenv("PATH", f"{tmp_path}/mine/bin:{path}")
    said = run(home, "echo $PATH; echo $VIRTUAL_ENV", THE_PYTHON, image=None)[0].splitlines()
    assert said[:2] == [f"{tmp_path}/mine/bin:{path}", str(tmp_path / "mine")]
    assert said[2].endswith(f" {tmp_path}/mine")
    assert run(home, "echo $PATH", image=None, env={"PATH": f"/own:{DSTACKS}:/bin"})[0] == f"/own:{DSTACKS}:/bin\n"


@pytest.fixture
def docker(home: Home, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with on_engine(home, engine, monkeypatch) as one:
        yield one


def test_files_of_a_container_have_the_modes_that_git_gives_and_are_the_jobs(docker: Home, tmp_path: Path) -> None:
    work = make_remote(tmp_path, {"main.sh": b"echo cloned\n", "deep/data.txt": b"data\n"})
    with GitOverHttp(work.parent) as server:
        git(work, "remote", "set-url", "origin", server.url_of("project.git"))
        (work / "new/sent").mkdir(parents=True)
        (work / "new/sent/run.sh").write_text("echo sent\n")
        (work / "new/sent/run.sh").chmod(0o755)
        repo = RemoteRepo.from_dir(work)
        docker.client().repos.init(repo)
        commands = [
            "sh main.sh && new/sent/run.sh && echo kept > /data/result",
            "stat -c '%a %U %n' . main.sh deep deep/data.txt new new/sent new/sent/run.sh .git/HEAD /data",
        ]
        volumes = [f"{docker.path}/made/deep:/data"]
        task = Task(image="test/shell:1", user="me", commands=commands, volumes=volumes)
        one = docker.client().runs.submit(task, repo=repo)
        said = b"".join(one.logs()).decode().splitlines()
    assert said[:2] == ["cloned", "sent"]
    modes = {"755": (".", "deep", "new", "new/sent", "new/sent/run.sh", "/data")}
    modes |= {"644": ("main.sh", "deep/data.txt", ".git/HEAD")}
    assert sorted(said[2:]) == sorted(f"{mode} me {name}" for mode, names in modes.items() for name in names)
    assert run(docker, "stat -c '%a %U' . /data", volumes=volumes)[0] == "755 root\n755 me\n"
