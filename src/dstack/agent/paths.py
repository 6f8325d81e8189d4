"""Where everything lies in an agent's home folder, and the few safe ways to touch it."""

import hashlib
import json
import logging
import os
import re
import select
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar

from dstack.agent import full_disk
from dstack.errors import AgentRefused, ConfigurationError
from dstack.kit.folders import make_private
from dstack.kit.locks import is_locked, take

log = logging.getLogger(__name__)

T = TypeVar("T")

SOCKET_PATH_BYTES_MAX = 100
"""The kernel takes 107; some systems less."""

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""What a job id may look like, since it names a folder and an SSH user."""

LOCK_TRIES = 10
LOCK_RETRY_S = 0.05

DAMAGED_MAX = 1000
_damaged: dict[Path, None] = {}
"""The damaged files that were logged: some are read every second. The oldest are dropped."""


@dataclass(frozen=True, slots=True)
class Home:
    """An agent's home folder."""

    root: Path

    @property
    def lock(self) -> Path:
        """Locked for as long as an agent lives here; holds its pid."""
        return self.root / "agent.lock"

    @property
    def boot(self) -> Path:
        """Which start of the machine this is."""
        return self.root / "boot.json"

    @property
    def ssh(self) -> Path:
        """The SSH server's port and host key."""
        return self.root / "ssh.json"

    @property
    def launcher(self) -> Path:
        """The program that starts jobs in containers."""
        return self.root / "launch"

    @property
    def images(self) -> Path:
        """What is known of images beside what the engine knows."""
        return self.root / "images.json"

    @property
    def cards(self) -> Path:
        """Which of the host's cards has which number."""
        return self.root / "cards.json"

    @property
    def blobs(self) -> Path:
        """The cache of chunks."""
        return self.root / "blobs"

    @property
    def jobs(self) -> Path:
        """A folder for each job."""
        return self.root / "jobs"

    @property
    def forgotten(self) -> Path:
        """An empty file for each job that must not start any more."""
        return self.root / "forgotten"

    @property
    def trash(self) -> Path:
        """Folders of forgotten jobs on their way out."""
        return self.root / "trash"

    def job(self, job_id: str) -> "JobFolder":
        """The folder of one job, which need not exist.

        Raises:
            AgentRefused: the id could not name a folder.
        """
        if not JOB_ID.fullmatch(job_id):
            raise AgentRefused(f"`{job_id[:100]}` cannot be a job's id", hint="Letters, digits, `-` and `_` can")
        return JobFolder(self.jobs / job_id)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of one job. Its files are all that an agent knows about the job."""

    root: Path

    @property
    def job_id(self) -> str:
        """Whose folder it is."""
        return self.root.name

    @property
    def order(self) -> Path:
        """What was asked for; the first file to appear."""
        return self.root / "order.json"

    @property
    def lock(self) -> Path:
        """Locked for as long as the job's supervisor lives. The process that has it writes the job's log."""
        return self.root / "lock"

    @property
    def pid(self) -> Path:
        """The supervisor's pid and the time of the start; once it exists the job is never started again."""
        return self.root / "pid"

    @property
    def container(self) -> Path:
        """Of a job in a container: which one, and the time of the start; the job is then never started again."""
        return self.root / "container.json"

    @property
    def stop(self) -> Path:
        """With how much grace to stop, once somebody asked for it."""
        return self.root / "stop.json"

    @property
    def end(self) -> Path:
        """How the job ended; the last file to appear."""
        return self.root / "exit.json"

    @property
    def script(self) -> Path:
        """What the shell runs."""
        return self.root / "script"

    @property
    def visible(self) -> Path:
        """Of a process job on a machine with GPUs: the variables by which it finds its own."""
        return self.root / "visible.json"

    @property
    def environment(self) -> Path:
        """Of a process job that asked for a version of Python: the virtual environment of its own."""
        return self.root / "venv"

    @property
    def bashrc(self) -> Path:
        """What a shell reads first that somebody types into."""
        return self.root / "bashrc"

    @property
    def service(self) -> Path:
        """Of a replica of a service: the port that it was given, whether it is ready, and why it failed."""
        return self.root / "service.json"

    @property
    def made(self) -> Path:
        """Of a job in a container: the folders of this host that were made for its `volumes`."""
        return self.root / "made.json"

    @property
    def files(self) -> Path:
        """The job's own folder of files."""
        return self.root / "files"

    @property
    def absolute(self) -> Path:
        """The job's files that lie elsewhere than in its folder of files, each below its own path."""
        return self.root / "absolute"

    @property
    def entered(self) -> Path:
        """Exists once somebody came in over SSH."""
        return self.root / "entered"

    @property
    def alone(self) -> Path:
        """Since when nobody is in any more; exists while nobody is, once somebody was."""
        return self.root / "alone.json"

    @property
    def authorized_keys(self) -> Path:
        """The public keys that may open the way into this job, one a line."""
        return self.root / "authorized_keys"

    @property
    def pipe(self) -> Path:
        """Where the job prints. One of an earlier agent, or on another kernel, has none, and prints into its log."""
        return self.root / "job.pipe"

    def has_writer(self) -> bool:
        """Return whether a process lives that writes the job's log."""
        return is_locked(self.lock)

    def log(self, stream: str) -> Path:
        """The log of one of the `LOG_STREAMS`."""
        return self.root / f"{stream}.log"

    def log_start(self, stream: str) -> Path:
        """Which byte of a log is the first that is still there."""
        return self.root / f"{stream}.start"


def socket_path(home: Path, name: str = "agent") -> Path:
    """Where the agent of a home folder listens. Pure, so that server and agent agree.

    A path too long for a unix socket is replaced by one in a folder of this user's below `/tmp`, whatever `TMPDIR`
    says: the two sides may see different environments.
    """
    home = home.absolute()
    path = home / f"{name}.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    suffix = "" if name == "agent" else f".{name}"
    return Path("/tmp") / f"dstack-{os.getuid()}" / f"{digest}{suffix}.sock"


def channels_path(home: Path) -> Path:
    """Return the path of the socket through which ports of jobs are reached (`kit.channels`)."""
    return socket_path(home, "channels")


def make_private_folder(path: Path) -> None:
    """Make a folder that only this user may look into, or make sure that it is one.

    Raises:
        ConfigurationError: it is somebody else's, or no folder.
    """
    if not path.is_symlink():
        make_private(path)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigurationError(f"`{path}` is not a folder of this user", hint="Remove it, or choose another folder")


def is_agent_alive(home: Path) -> bool:
    """Whether an agent lives in this folder, which need not exist."""
    return is_locked(Home(home).lock)


def take_lock(path: Path, tries: int = LOCK_TRIES) -> int | None:
    """Lock a file for the life of this process.

    Tries for half a second, unless asked otherwise, because somebody may be asking `is_locked` at this moment.

    Returns: the descriptor to keep, or None where another process has the lock.
    """
    for left in reversed(range(tries)):
        if (descriptor := take(path)) is not None:
            return descriptor
        select.select([], [], [], LOCK_RETRY_S if left else 0.0)
    return None


def write_json(path: Path, value: Mapping[str, object], *, durable: bool = False) -> None:
    """Replace a file as a whole: nobody ever sees half of it. `durable` also holds after a power cut.

    What is not durable may be lost with the power, or be empty then: `read_json` takes both for no file.

    On a full disk it takes the room that was set aside for the file, where there is some.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
    text = json.dumps(value).encode()
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(descriptor)
        draft.rename(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if not (full_disk.is_full(error) and full_disk.write_into_room(path, text)):
            raise


def _sync_folder(folder: Path) -> None:
    """Have the names of its files outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, make: Callable[[Any], T]) -> T | None:
    """What a file says; None where there is none, or where it is damaged: that is logged, and the file stays.

    That a file is there may say something by itself, such as that a job was started.

    Args:
        make: makes a value of the JSON; raises where that is no such value.

    Raises:
        OSError: the file cannot be read just now.
    """
    try:
        return make(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IsADirectoryError) as error:
        if path not in _damaged:
            log.error("%s is damaged, and taken for lost: %s", path, error)
            _damaged[path] = None
        if len(_damaged) > DAMAGED_MAX:
            del _damaged[next(iter(_damaged))]
        return None
