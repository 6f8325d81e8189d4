"""A real container engine for tests, from whatever the machine has installed, and images made on the spot."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import bcrypt
import pytest

from tests.machine import missing, refused
from tests.patience import PATIENCE_S

SHELL_IMAGE = "test/shell:1"
"""BusyBox: a shell and small programs, the users `root` and `me`."""
BARE_IMAGE = "test/bare:1"
"""One static program that says how it was called; no shell, no users, as distroless images are."""

_PASSWD = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:100:me:/home/me:/bin/sh\n"
_GROUP = "root:x:0:\nusers:x:100:\nextra:x:2000:me\n"


class Registry:
    """A registry of images that lets only one user in."""

    host = "127.0.0.1:5001"
    user = "puller"
    password = "right-password"

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class PrivateNetwork:
    """A network that reaches nothing and nobody, so that several engines and registries may use the same ports."""

    def __init__(self) -> None:
        hold = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
        # Nothing of the test that happens to be the first: its home is searched for leftovers.
        bare = {"PATH": os.environ["PATH"]}
        self._holder = subprocess.Popen(hold, stdout=subprocess.PIPE, start_new_session=True, env=bare)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            pytest.fail("this machine makes no network namespace: `unshare --net` failed")

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command inside."""
        return ["nsenter", "-t", str(self._holder.pid), "-n", *command]

    def run(self, *command: str) -> str:
        """What a command prints that runs inside."""
        return subprocess.run(
            self.inside(*command), capture_output=True, text=True, check=True, timeout=PATIENCE_S
        ).stdout

    def close(self) -> None:
        """Let go of it."""
        self._holder.kill()
        self._holder.communicate()


class DockerEngine:
    """Docker's daemon in folders and a network of its own, so that several live side by side."""

    def __init__(self, disk_bytes: int | None = None, *, live_restore: bool = False) -> None:
        """Args:
        disk_bytes: have the engine's data on a disk of its own, of this size.
        live_restore: have containers outlive the daemon.
        """
        self._busybox = find_busybox(
            "dockerd", "docker", "unshare", "nsenter", "docker-registry", packages="docker.io docker-registry"
        )
        self._folder = Path(tempfile.mkdtemp(prefix="de-", dir="/tmp"))
        self._disk_bytes = disk_bytes
        self._live_restore = live_restore
        self.data = self._folder / "root"
        """Where it keeps what it has."""
        self.network = PrivateNetwork()
        self._daemon: subprocess.Popen[bytes] | None = None
        self.socket = self._folder / "docker.sock"
        self.host = f"unix://{self.socket}"

    def start(self) -> None:
        """Serve, with the images that tests use."""
        if self._disk_bytes is not None:
            mount_disk(self.data, self._disk_bytes)
        self.start_daemon()
        self.make_image(SHELL_IMAGE, *shell_image(self._busybox))
        busybox = self._busybox.read_bytes()
        self.make_image(
            BARE_IMAGE, {"busybox": busybox}, changes=('ENTRYPOINT ["/busybox", "echo"]', 'CMD ["bare", "image"]')
        )

    def start_daemon(self) -> None:
        """Serve what there is."""
        daemon = ["dockerd", "--data-root", str(self.data), "--exec-root", f"{self._folder}/exec"]
        daemon += ["-H", self.host, "-p", f"{self._folder}/pid", f"--live-restore={str(self._live_restore).lower()}"]
        with open(self._folder / "log", "ab") as log:
            self._daemon = subprocess.Popen(
                self.network.inside(*daemon),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": os.environ["PATH"]},  # nothing of the test that happens to be the first
            )
        deadline = time.monotonic() + PATIENCE_S
        while self.docker("version", check=False).returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"dockerd does not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill_daemon(self) -> None:
        """As if it had crashed."""
        assert self._daemon is not None
        os.killpg(self._daemon.pid, signal.SIGKILL)
        self._daemon.wait()
        for name in ("docker", "containerd/containerd"):
            Path(f"{self._folder}/exec/{name}.pid").unlink(missing_ok=True)
        (self._folder / "pid").unlink(missing_ok=True)
        kill_all_of(str(self._folder), but="containerd-shim")

    def daemon_pid(self) -> int | None:
        """Of the daemon that lives."""
        return self._daemon.pid if self._daemon is not None and self._daemon.poll() is None else None

    def containerd_pid(self) -> int | None:
        """Of the daemon's own containerd, which it starts again."""
        try:
            return int((self._folder / "exec/containerd/containerd.pid").read_text())
        except (OSError, ValueError):
            return None

    def hang_daemon(self) -> None:
        """It is there, and does not answer any more."""
        assert self._daemon is not None
        os.kill(self._daemon.pid, signal.SIGSTOP)

    def wake_daemon(self) -> None:
        """It goes on where it hung."""
        assert self._daemon is not None
        os.kill(self._daemon.pid, signal.SIGCONT)

    def end_daemon(self) -> None:
        """As when it is updated: it ends in good order, and its containers with it."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait(PATIENCE_S)

    def stop(self) -> None:
        """End it, and all that it kept."""
        if self._daemon is not None and self._daemon.poll() is None:
            for id in self.docker("ps", "-aq").stdout.split():
                self.docker("rm", "-f", id, check=False)
            self._daemon.terminate()
            try:
                self._daemon.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        kill_all_of(str(self._folder))
        self.network.close()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (target := line.split()[1]).startswith(str(self._folder)):
                subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def serve_registry(self) -> "Registry":
        """A registry with a password, on the loopback of the engine's own network."""
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir=self._folder))
        password = bcrypt.hashpw(Registry.password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{Registry.user}:{password}\n")
        (folder / "config.yml").write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '{Registry.host}'}}\nauth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
        )
        serve = self.network.inside("docker-registry", "serve", str(folder / "config.yml"))
        process = subprocess.Popen(
            serve,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )
        registry = Registry(process)
        login = ("login", "-u", registry.user, "--password-stdin", registry.host)
        deadline = time.monotonic() + PATIENCE_S
        while self.docker(*login, input=registry.password.encode(), check=False).returncode != 0:
            if time.monotonic() > deadline:
                pytest.fail("the registry does not start")
            time.sleep(0.05)
        return registry

    def docker(self, *args: str, input: bytes | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `docker ARGS`."""
        result = subprocess.run(
            ["docker", "--config", f"{self._folder}/config", "-H", self.host, *args],
            input=input,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        said = subprocess.CompletedProcess(
            result.args,
            result.returncode,
            result.stdout.decode(errors="replace"),
            result.stderr.decode(errors="replace"),
        )
        assert not check or said.returncode == 0, said.stderr
        return said

    def containers(self) -> list[str]:
        """The names of all containers, also of those that have ended."""
        return self.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()

    def make_image(
        self,
        name: str,
        files: Mapping[str, bytes],
        links: Mapping[str, str] | None = None,
        folders: Iterable[str] = (),
        changes: Iterable[str] = (),
    ) -> None:
        """An image of some files, all of which may be executed."""
        options = [word for change in changes for word in ("--change", change)]
        self.docker("import", *options, "-", name, input=packed(files, links or {}, folders))

    def load_image(self, name: str, layers: Sequence[Mapping[str, bytes]], machine: str = "amd64") -> None:
        """An image of several layers.

        Args:
            machine: for which it says it is, as Go names it.
        """
        self.docker("load", input=_saved(name, [packed(layer) for layer in layers], machine))


def packed(files: Mapping[str, bytes], links: Mapping[str, str] | None = None, folders: Iterable[str] = ()) -> bytes:
    """A tar archive of some files, all of which may be executed."""
    archived = io.BytesIO()
    with tarfile.open(fileobj=archived, mode="w") as archive:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(info)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
        for path, target in (links or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return archived.getvalue()


def _saved(name: str, layers: Sequence[bytes], machine: str) -> bytes:
    """An image as `docker save` writes it."""
    hashes = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": machine, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": hashes}}
    names = [f"{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    parts = {**dict(zip(names, layers, strict=True)), "config.json": json.dumps(config).encode()}
    return packed({**parts, "manifest.json": json.dumps(manifest).encode()})


def kill_all_of(folder: str, but: str = "\0") -> None:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().decode(errors="replace")
            if folder in command and but not in command and int(path.name) != os.getpid():
                os.kill(int(path.name), signal.SIGKILL)
        except OSError:
            continue


def find_busybox(*programs: str, packages: str) -> Path:
    """Where BusyBox is; skips where this machine cannot run an engine of its own.

    Args:
        programs: what else must be installed.
        packages: the Debian packages that have them.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can start a container engine for tests")
    absent = [name for name in (*programs, "busybox", "ip") if shutil.which(name) is None]
    if absent:
        missing(f"{', '.join(absent)} not installed: `apt-get install {packages} busybox-static iproute2`")
    return Path(str(shutil.which("busybox")))


def mount_disk(folder: Path, size_bytes: int) -> None:
    """Put a small disk there; skips where this machine does not allow it."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        refused(f"no disk can be mounted here: {result.stderr.strip()}")


def shell_image(busybox: Path) -> "tuple[dict[str, bytes], dict[str, str], tuple[str, ...]]":
    """The files, links and folders of `SHELL_IMAGE`."""
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{name}": "busybox" for name in names if name != "busybox"}
    files = {"bin/busybox": busybox.read_bytes(), "etc/passwd": _PASSWD.encode(), "etc/group": _GROUP.encode()}
    return files, links, ("tmp", "home/me", "root")
