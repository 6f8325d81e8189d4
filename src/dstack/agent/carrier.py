"""The carrier of one container job: the process that moves what the container prints into the job's log.

It needs neither the agent nor the spawner to live, and has a twin that waits for its lock: when the carrier is killed,
the twin goes on in its place and forks a twin of its own. SIGTERM asks it to move what is left, and to end.
"""

import fcntl
import os
import signal
from contextlib import suppress

from dstack.agent.output import Output
from dstack.agent.paths import JobFolder, write_json
from dstack.agent.signals import SIGNALS, signal_descriptor, take_signals

LOOK_EVERY_S = 10.0
"""How often it is looked whether the job's folder is still there."""


def carry(folder: JobFolder, started_at: float) -> None:
    """Live as the carrier of a job, or as its twin, until the job has ended.

    Args:
        started_at: of the job, in seconds since the epoch; it is written down beside this process's number.
    """
    with suppress(FileNotFoundError):  # the job was forgotten meanwhile
        while True:
            lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.end.exists():
                return
            if not _Carrier(folder, started_at).run():
                return
            os.close(lock)  # of the carrier, whose twin this process is now


class _Carrier:
    def __init__(self, folder: JobFolder, started_at: float) -> None:
        self._folder = folder
        self._started_at = started_at
        self._output = Output(folder)
        self._signals = signal_descriptor(SIGNALS)
        self._twin = 0

    def run(self) -> bool:
        """Carry until asked to end. Returns whether this process is the twin that was forked meanwhile."""
        taken = set[int]()
        while signal.SIGTERM not in taken and self._folder.pipe.exists():
            if not self._has_twin():
                if self._is_forked_twin():
                    self._close()
                    return True
                # Only now: where it can be found by this, it has a twin if the host lets one be forked.
                write_json(self._folder.pid, {"pid": os.getpid(), "started_at": self._started_at})
            is_asked = self._output.wait(self._signals, LOOK_EVERY_S)
            taken = take_signals(self._signals) if is_asked else set()
        if self._has_twin():
            os.kill(self._twin, signal.SIGKILL)
        self._output.empty()
        return False

    def _is_forked_twin(self) -> bool:
        """Fork a twin, now or, where the host has too many processes, at the next look. Returns whether it is this."""
        try:
            self._twin = os.fork()
        except OSError:
            return False
        return self._twin == 0

    def _has_twin(self) -> bool:
        if self._twin and os.waitpid(self._twin, os.WNOHANG)[0]:
            self._twin = 0
        return self._twin != 0

    def _close(self) -> None:
        self._output.close()
        os.close(self._signals)
