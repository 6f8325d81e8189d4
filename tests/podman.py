"""Podman with Docker's API, for tests: a service of its own, with its own images and containers."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.engines import BARE_IMAGE, SHELL_IMAGE, PrivateNetwork, find_busybox, kill_all_of, packed, shell_image
from tests.machine import refused
from tests.patience import PATIENCE_S
from tests.registries import PORT

# Podman raises limits to what root may have; a container around this machine may forbid that.
SETTINGS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class PodmanEngine:
    """Podman's service in folders of its own."""

    def __init__(self) -> None:
        self._busybox = find_busybox("podman", "conmon", "catatonit", packages="podman catatonit")
        self._folder = Path(tempfile.mkdtemp(prefix="pe-", dir="/tmp"))
        self.network = PrivateNetwork()
        self._service: subprocess.Popen[bytes] | None = None
        self.socket = self._folder / "podman.sock"
        self.host = f"unix://{self.socket}"

    def start(self) -> None:
        """Serve, with the images that tests use; skips where no container can run."""
        storage = f'[storage]\ndriver = "vfs"\nrunroot = "{self._folder}/run"\ngraphroot = "{self._folder}/root"\n'
        (self._folder / "storage.conf").write_text(storage)
        registry = f'[[registry]]\nlocation = "127.0.0.1:{PORT}"\ninsecure = true\n'
        (self._folder / "registries.conf").write_text(registry)
        (self._folder / "containers.conf").write_text(SETTINGS)
        self.make_image(SHELL_IMAGE, *shell_image(self._busybox))
        self.make_image(
            BARE_IMAGE,
            {"busybox": self._busybox.read_bytes()},
            changes=('ENTRYPOINT ["/busybox", "echo"]', 'CMD ["bare", "image"]'),
        )
        trial = self.podman("run", "--rm", "--init", SHELL_IMAGE, "true", check=False)
        if trial.returncode != 0:
            refused(f"Podman cannot run containers on this machine: {trial.stderr.strip()[-500:]}")
        with open(self._folder / "log", "ab") as log:
            self._service = subprocess.Popen(
                self.network.inside("podman", "system", "service", "--time=0", self.host),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,  # conmon leaves files where it was started
                env=self._env(),
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self.socket.exists():
            assert time.monotonic() < deadline and self._service.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and all that it kept."""
        if self._service is not None:
            self.podman("rm", "-af", "-t", "0", check=False)
            self._service.terminate()
            self._service.wait(PATIENCE_S)
        kill_all_of(str(self._folder))
        self.network.close()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (target := line.split()[1]).startswith(str(self._folder)):
                subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def podman(self, *args: str, input: bytes | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `podman ARGS`."""
        result = subprocess.run(
            self.network.inside("podman", *args),
            input=input,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=self._folder,
            env=self._env(),
        )
        out, err = result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
        assert not check or result.returncode == 0, err
        return subprocess.CompletedProcess(result.args, result.returncode, out, err)

    def containers(self) -> list[str]:
        """The names of all containers, also of those that have ended."""
        return self.podman("ps", "-a", "--format", "{{.Names}}").stdout.split()

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
        self.podman("import", *options, "-", name, input=packed(files, links, folders))

    def _env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "CONTAINERS_CONF": f"{self._folder}/containers.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self._folder}/registries.conf",
            "CONTAINERS_STORAGE_CONF": f"{self._folder}/storage.conf",
        }
