"""The way into a job with OpenSSH's own client: into a plain process, and into a container without any sshd."""

import fcntl
import hashlib
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import termios
import threading
import urllib.request
from contextlib import closing
from pathlib import Path

import asyncssh
import pytest

from dstack.api import Client, Run, Task
from tests.e2e.home import Home, wait_for
from tests.e2e.test_attach import free_ports
from tests.engines import BARE_IMAGE, SHELL_IMAGE
from tests.machine import missing
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")

KINDS = ["process", pytest.param("container", marks=pytest.mark.server(engine="engine"))]
HOST = "box"


class Job:
    """A job that is attached, and OpenSSH's programs that come to it."""

    def __init__(self, home: Home, run: Run, kind: str) -> None:
        self.home = home
        self.run = run
        self.kind = kind
        self.config = home.path / ".dstack/ssh/config"

    def command(self, *args: str, program: str = "ssh") -> list[str]:
        return [program, "-F", str(self.config), *args]

    def ssh(
        self, *args: str, input: bytes = b"", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """`ssh ARGS box`… to its end."""
        environ = {**self.home.env, **(env or {})}
        return subprocess.run(self.command(*args), input=input, capture_output=True, timeout=PATIENCE_S, env=environ)

    def said(self, command: str, input: bytes = b"") -> str:
        """What a command inside prints."""
        result = self.ssh(HOST, command, input=input)
        assert result.returncode == 0, result.stderr
        return result.stdout.decode()

    def start(self, *args: str) -> "subprocess.Popen[str]":
        return self.home.start_program(*self.command(*args))

    @property
    def busybox(self) -> str:
        """What comes before the name of one of BusyBox's programs."""
        return "" if self.kind == "container" else "busybox "

    def serving(self, port: int, page: str) -> str:
        """A command that serves one page at a port of the job's loopback."""
        folder = f"/tmp/served-{port}"
        page_there = f"mkdir -p {folder} && printf '{page}' > {folder}/index.html"
        return f"{page_there} && exec {self.busybox}httpd -f -p 127.0.0.1:{port} -h {folder}"


def started(home: Home, kind: str, **fields: object) -> Job:
    task = {"commands": ["echo up; while :; do sleep 1; done"], **fields}
    if kind == "container":
        task = {"image": SHELL_IMAGE, **task}
    run = home.client().runs.submit(Task.model_validate(task), run_name=HOST)
    assert run.attach()
    return Job(home, run, kind)


@pytest.fixture(params=KINDS)
def job(request: pytest.FixtureRequest, home: Home) -> Job:
    """An attached job of each kind."""
    return started(home, request.param)


@pytest.fixture
def container(request: pytest.FixtureRequest, home: Home) -> Job:
    """An attached job in a container, as a user who is not root, or as the one that the test names."""
    return started(home, "container", user=getattr(request, "param", "me"))


def test_commands_have_the_jobs_place_and_environment_and_give_their_exit_code(job: Job) -> None:
    result = job.ssh(HOST, 'echo "$DSTACK_RUN_NAME $PWD"; echo problem >&2; exit 3')
    folder = "/workflow" if job.kind == "container" else job.said("echo $DSTACK_WORKING_DIR").strip()
    assert (result.stdout.decode(), result.stderr, result.returncode) == (f"{HOST} {folder}\n", b"problem\n", 3)
    assert job.ssh(HOST, "kill -9 $$").returncode in (137, 255)


def test_input_of_any_bytes_arrives_whole_and_its_end_is_seen(job: Job) -> None:
    data = os.urandom(10_000_000)
    digest = hashlib.sha256(data).hexdigest()
    assert job.said("sha256sum", input=data).split()[0] == digest
    assert hashlib.sha256(job.ssh(HOST, "cat", input=data).stdout).hexdigest() == digest


def test_a_terminal_is_one_and_changes_its_size(job: Job) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    process = subprocess.Popen(
        job.command("-tt", HOST),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**job.home.env, "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""

    def until(pattern: bytes) -> None:
        nonlocal seen
        while not re.search(pattern, seen):
            seen += os.read(ours, 4096)

    os.write(ours, b"echo size-$(stty size | tr ' ' x)-$TERM\n")
    until(rb"size-33x99-xterm")
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 55, 0, 0))
    process.send_signal(28)  # SIGWINCH
    os.write(ours, b"while [ \"$(stty size)\" != '11 55' ]; do sleep 0.05; done; echo resi''zed\n")
    until(rb"resized")
    mark = f"6{os.getpid()}"
    os.write(ours, f"sleep {mark}\n".encode())
    wait_for("what is to be interrupted", lambda: _lives(f"sleep\0{mark}\0"))
    os.write(ours, b"\x03")
    wait_for("its end", lambda: not _lives(f"sleep\0{mark}\0"))
    os.write(ours, b"echo af''ter; exit 4\n")
    until(rb"after")
    assert process.wait(PATIENCE_S) == 4
    os.close(ours)


def test_files_are_copied_by_scp_and_sftp(job: Job, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    data = os.urandom(5_000_000)
    (tree / "sub/data").write_bytes(data)
    (tree / "run").write_text("#!/bin/sh\necho runs\n")
    (tree / "run").chmod(0o755)
    subprocess.run(job.command("-q", "-r", "-p", str(tree), f"{HOST}:", program="scp"), check=True, timeout=PATIENCE_S)
    assert job.said("./tree/run") == "runs\n"
    subprocess.run(
        job.command("-q", "-r", f"{HOST}:tree", str(tmp_path / "back"), program="scp"), check=True, timeout=PATIENCE_S
    )
    assert (tmp_path / "back/sub/data").read_bytes() == data
    batch = subprocess.run(
        job.command("-q", "-b", "-", HOST, program="sftp"),
        input="cd tree\nrename run go\nls\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert batch.returncode == 0 and re.search(r"^go\s", batch.stdout, re.MULTILINE)


def test_ports_of_the_job_are_forwarded_both_ways_and_by_a_proxy(job: Job) -> None:
    here, inside, back, returning, proxy = free_ports(5)
    job.start(HOST, job.serving(inside, "from the job"))
    job.start("-N", "-L", f"{here}:127.0.0.1:{inside}", "-D", str(proxy), "-R", f"{returning}:127.0.0.1:{back}", HOST)
    wait_for("the forward", lambda: _page(here) == "from the job")
    with socket.create_server(("127.0.0.1", back)) as listening:
        threading.Thread(target=_answer_one, args=(listening,), daemon=True).start()
        ask = f"{job.busybox}nc 127.0.0.1 {returning} </dev/null"
        wait_for("the way back", lambda: b"to the job" in job.ssh(HOST, ask).stdout)
    with closing(socket.create_connection(("127.0.0.1", proxy), timeout=PATIENCE_S)) as client:
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2) == b"\x05\x00"
        client.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack(">H", inside))
        assert client.recv(10)[1] == 0
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(12).endswith(b" 200")


def _page(port: int) -> str:
    """What is served at a local port; nothing where nobody serves."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def _answer_one(listening: socket.socket) -> None:
    connected, _ = listening.accept()
    with connected:
        connected.sendall(b"to the job")


def test_one_connection_serves_many_sessions(job: Job) -> None:
    control = ("-o", "ControlMaster=auto", "-o", f"ControlPath={job.home.path}/cm", "-o", "ControlPersist=30")
    first = job.ssh(*control, HOST, "echo one")
    assert first.stdout == b"one\n"
    starting = [subprocess.Popen(job.command(*control, HOST, f"echo {n}"), stdout=subprocess.PIPE) for n in range(8)]
    assert sorted(one.communicate(timeout=PATIENCE_S)[0] for one in starting) == [f"{n}\n".encode() for n in range(8)]
    job.ssh(*control, "-O", "exit", HOST)


def test_the_clients_agent_is_there_inside(job: Job) -> None:
    key = job.home.path / "agent-key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    key.chmod(0o600)
    agent_socket = str(job.home.path / "agent.sock")
    job.home.start_program("ssh-agent", "-D", "-a", agent_socket)
    wait_for("the agent", lambda: os.path.exists(agent_socket))
    subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, "SSH_AUTH_SOCK": agent_socket}, check=True)
    job.home.env["SSH_AUTH_SOCK"] = agent_socket
    session = job.start("-A", HOST, "test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK; sleep 600")
    assert session.stdout is not None
    inside = session.stdout.readline().strip()
    # Who is inside has no ssh-add of its own: what it would reach is reached by a forward.
    through = job.home.path / "through.sock"
    job.start("-N", "-L", f"{through}:{inside}", HOST)
    asking = ("ssh-add", "-L")
    environ = {**os.environ, "SSH_AUTH_SOCK": str(through)}
    wait_for("the way to the agent", lambda: subprocess.run(asking, env=environ, capture_output=True).returncode == 0)
    assert b"ssh-ed25519" in subprocess.run(asking, env=environ, capture_output=True, check=True).stdout
    assert job.said("echo agent $SSH_AUTH_SOCK") == "agent\n"
    session.terminate()
    if job.kind == "process":
        wait_for("the removal of the socket", lambda: not Path(inside).parent.exists())


def test_an_editors_server_is_installed_started_and_reached(job: Job) -> None:
    """As VS Code does it: a script on the shell's input leaves a server behind, which is reached by forwards."""
    here, inside = free_ports(2)
    script = (
        f"mkdir -p /tmp/editor-{inside} && cd /tmp/editor-{inside} && echo served > index.html\n"
        f"(trap '' HUP; exec {job.busybox}httpd -f -p 127.0.0.1:{inside}) > log 2>&1 < /dev/null &\n"
        f"echo listeningOn=={inside}==\n"
    )
    result = job.ssh("-T", HOST, "sh", input=script.encode())
    assert f"listeningOn=={inside}==" in result.stdout.decode(), result.stderr
    job.start("-N", "-L", f"{here}:127.0.0.1:{inside}", HOST)
    wait_for("the server", lambda: _page(here) == "served\n")


def test_another_machine_of_the_user_comes_in_too_and_no_other_key(job: Job, tmp_path: Path) -> None:
    other = tmp_path / "id_other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(other))
    other.chmod(0o600)
    text = job.config.read_text()
    plain = re.sub(r"IdentityFile .*", f"IdentityFile {other}", text)
    stranger = tmp_path / "config"
    stranger.write_text(plain)
    as_stranger = subprocess.run(["ssh", "-F", str(stranger), HOST, "true"], capture_output=True, timeout=PATIENCE_S)
    assert as_stranger.returncode == 255 and b"Permission denied (publickey)" in as_stranger.stderr
    with closing(Client.from_config(ssh_identity_file=other)) as second:
        run = second.runs.get(HOST)
        assert run is not None
        job.run.detach()
        run.attach()
        assert subprocess.run(["ssh", "-F", str(stranger), HOST, "true"], timeout=PATIENCE_S).returncode == 0


def test_no_password_opens_and_no_key_after_the_end(job: Job) -> None:
    assert job.said("echo in") == "in\n"
    methods = job.ssh(
        "-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=yes", HOST, "true"
    )
    assert methods.returncode == 255 and b"Permission denied (publickey)" in methods.stderr
    config, hosts = job.home.path / "old-config", job.home.path / "old-hosts"
    shutil.copy(job.config.with_name("known_hosts"), hosts)
    config.write_text(job.config.read_text().replace(str(job.config.with_name("known_hosts")), str(hosts)))
    job.run.stop()
    for _ in job.run.changes():
        pass
    late = subprocess.run(["ssh", "-F", str(config), HOST, "true"], capture_output=True, timeout=PATIENCE_S)
    assert late.returncode == 255 and b"Permission denied (publickey)" in late.stderr


def test_the_end_of_the_job_ends_sessions_and_what_they_started(job: Job) -> None:
    mark = f"7{os.getpid()}"
    session = job.start(HOST, f"nohup sleep {mark} >/dev/null 2>&1 & echo there; sleep {mark}")
    assert session.stdout is not None and session.stdout.readline() == "there\n"
    job.run.stop()
    assert session.wait(PATIENCE_S) != 0
    wait_for("the end of what was started", lambda: not _lives(f"sleep\0{mark}\0"))


def test_a_client_that_disconnects_leaves_nothing_that_it_waited_for(job: Job) -> None:
    """However early: an engine passes output on before it knows the pid of what prints it."""
    mark = f"8{os.getpid()}"
    for _ in range(5):
        session = job.start(HOST, f"echo there; exec sleep {mark}")
        assert session.stdout is not None and session.stdout.readline() == "there\n"
        session.kill()
        session.wait()
    wait_for("the end of what nobody waits for", lambda: not _lives(f"exec sleep {mark}", f"sleep\0{mark}\0"))


def _lives(*parts: str) -> bool:
    """Whether a process runs whose command line has one of these parts."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if any(part in path.read_text() for part in parts):
                return True
        except OSError:
            continue
    return False


@pytest.mark.server(engine="engine")
@pytest.mark.parametrize("container", ["me", "root"], indirect=True)
def test_files_cannot_be_reached_outside_the_container(container: Job, tmp_path: Path) -> None:
    """Neither by `..`, nor by a link to an absolute path, nor through `/proc`."""
    secret = Path("/tmp") / f"host-secret-{os.getpid()}"
    secret.write_text("of the host")
    back = tmp_path / "back"
    try:
        container.said(f"ln -s {secret} link; ln -s / root; ln -s /proc/1/root proc")
        for path in (
            str(secret),
            f"../../../../../..{secret}",
            "link",
            f"root{secret}",
            f"proc{secret}",
            f"/proc/1/root{secret}",
            f"/proc/self/root{secret}",
            f"/proc/{os.getpid()}/root{secret}",
        ):
            scp = container.command("-q", f"{HOST}:{path}", str(back), program="scp")
            result = subprocess.run(scp, capture_output=True, timeout=PATIENCE_S)
            assert result.returncode != 0 and not back.exists(), path
    finally:
        secret.unlink()


@pytest.mark.server(engine="engine")
def test_a_file_transfer_has_the_rights_of_the_containers_user(container: Job, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_text("mine")
    scp = container.command("-q", str(source), program="scp")
    assert subprocess.run([*scp, f"{HOST}:/etc/file"], capture_output=True, timeout=PATIENCE_S).returncode != 0
    subprocess.run([*scp, f"{HOST}:/tmp/file"], check=True, timeout=PATIENCE_S)
    assert container.said("stat -c '%U:%G' /tmp/file") == "me:users\n"


@pytest.mark.server(engine="engine")
def test_forwards_lead_to_the_containers_loopback_and_not_to_the_hosts(container: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        result = container.ssh("-W", f"127.0.0.1:{port}", HOST)
        assert result.returncode == 255 and b"refused" in result.stderr
        by_name = container.ssh("-W", f"localhost:{port}", HOST)
        assert by_name.returncode == 255
        elsewhere = container.ssh("-W", "192.0.2.1:80", HOST)
        assert b"only ports of 127.0.0.1 are forwarded" in elsewhere.stderr


@pytest.mark.server(engine="engine")
def test_a_container_does_not_see_the_agents_socket(container: Job) -> None:
    mounts = container.said("cat /proc/mounts; ls -A /dstack")
    assert "agent.sock" not in mounts
    assert sorted(mounts.split()[-3:]) == ["launch", "log", "script"]


@pytest.mark.server(engine="engine")
def test_an_image_without_shell_runs_programs_and_takes_files(home: Home, tmp_path: Path) -> None:
    bare = started(home, "container", image=BARE_IMAGE, commands=[], entrypoint="/busybox sleep 600")
    assert bare.said("/busybox echo 'two words'") == "two words\n"
    assert b"the image has no shell" in bare.ssh(HOST).stderr
    source = tmp_path / "file"
    source.write_text("sent")
    subprocess.run(bare.command("-q", str(source), f"{HOST}:/file", program="scp"), check=True, timeout=PATIENCE_S)
    assert bare.said("/busybox cat /file") == "sent"


def test_rsync_works_where_the_image_has_it(home: Home, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        missing("rsync is not installed: `apt-get install rsync`")
    job = started(home, "process")
    (tmp_path / "tree").mkdir()
    for number in range(50):
        (tmp_path / "tree" / str(number)).write_text(str(number))
    shell = f"ssh -F {job.config}"
    subprocess.run(["rsync", "-a", "-e", shell, f"{tmp_path}/tree/", f"{HOST}:tree/"], check=True, timeout=PATIENCE_S)
    assert job.said("ls tree | wc -l").strip() == "50"
