"""Differences between the systems that clients run on. `clock`, `locks` and `terminals` have the rest."""

import errno
import os
import stat
import sys
import time
from pathlib import Path

HAS_SERVERS = sys.platform == "linux"
"""Whether servers and agents run here; clients run everywhere."""
NAME = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
CTRL_C_WAITS = sys.platform == "win32"
"""Whether the wait for bytes of a connection goes on when Ctrl-C is pressed."""
BUSY_TRIES = 40
BUSY_RETRY_S = 0.05

if sys.platform == "win32":
    HOME_VARIABLE = "USERPROFILE"
    HOSTS_FILE = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/drivers/etc/hosts")

    def user_id() -> str:
        """Return what the system calls this user."""
        return os.environ.get("USERNAME", "unknown")

    def is_own(status: os.stat_result) -> bool:
        """Return False: a file's permissions are not in its mode, but inherited from its folder."""
        return False

    def home_of_openssh() -> Path | None:
        """Return the home folder that OpenSSH's client reads; None where it has none."""
        return Path.home()

    def mode_of(status: os.stat_result, start: bytes) -> int:
        """Return a file's mode for a job. This system does not record whether a file is a program; scripts are."""
        return 0o755 if start.startswith(b"#!") else 0o644

    def replace(source: str, target: Path) -> None:
        """Put a file in another's place, waiting a moment for programs that have that one open."""
        for left in reversed(range(BUSY_TRIES)):
            try:
                return os.replace(source, target)
            except PermissionError:
                if not left:
                    raise
                time.sleep(BUSY_RETRY_S)

    def has_reader_left(error: OSError) -> bool:
        """Return whether a write failed because the reader has closed its end."""
        return error.errno == errno.EINVAL  # the error of the C runtime

else:
    HOME_VARIABLE = "HOME"
    HOSTS_FILE = Path("/etc/hosts")

    def user_id() -> str:
        """Return what the system calls this user."""
        return str(os.getuid())

    def is_own(status: os.stat_result) -> bool:
        """Return whether a file is this user's, who may change its mode."""
        return status.st_uid == os.geteuid()

    def home_of_openssh() -> Path | None:
        """Return the home folder that OpenSSH's client reads; None where it has none."""
        import pwd

        try:
            return Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:
            return None

    def mode_of(status: os.stat_result, start: bytes) -> int:
        """Return a file's mode for a job."""
        return stat.S_IMODE(status.st_mode) & 0o777

    def replace(source: str, target: Path) -> None:
        """Put a file in another's place."""
        os.replace(source, target)

    def has_reader_left(error: OSError) -> bool:
        """Return whether a write failed because the reader has closed its end."""
        return isinstance(error, BrokenPipeError)


def end(pid: int, within_s: float) -> bool:
    """Send a process SIGTERM, and wait for its end. Returns whether it has ended.

    Raises:
        PermissionError: it is another user's.
        NotImplementedError: this system has no servers to end.
    """
    if sys.platform != "linux":
        raise NotImplementedError
    import select
    import signal

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)
