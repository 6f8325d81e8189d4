"""The agent's side of the spawner: asks it for supervisors, and replaces it when it has died or hangs."""

import asyncio
import json
import logging
import os
import signal
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dstack.agent.paths import JobFolder
from dstack.agent.spawner import Spawned
from dstack.errors import HostTrouble

log = logging.getLogger(__name__)

SPAWN_TIMEOUT_S = 20.0
TRIES = 3
"""A start is asked of so many spawners, each the replacement of the one before."""


class Spawner:
    """Forks supervisors, for as long as the host lets any process start."""

    def __init__(self, first: Spawned, start: Callable[[], Spawned]) -> None:
        """Args: `start`: starts another spawner; may block, and raise an `OSError`."""
        self._now: Spawned | None = first
        self._start = start
        self._streams: tuple[StreamReader, StreamWriter] | None = None
        self._asking = asyncio.Lock()

    async def fork(self, folder: JobFolder, started_at: float) -> tuple[int, bool]:
        """Have a supervisor forked for a job.

        A start whose answer is lost with a spawner is asked again of the next one: of two supervisors, the lock of the
        job's folder lets only the first do anything.

        Args:
            started_at: seconds since the epoch, as the supervisor writes it down.

        Returns: its pid, and whether it is certain to be the only one.

        Raises:
            HostTrouble: the host lets no process start.
        """
        request = {"folder": str(folder.root), "started_at": started_at}
        async with self._asking:
            for tried in range(TRIES):
                answer = await self._ask(request)
                if answer is not None:
                    return _pid_in(answer), tried == 0
                self._end()
        raise HostTrouble(
            f"The process that starts jobs has died or hung {TRIES} times in a row",
            hint="See `agent.log` on the machine, and whether its kernel kills processes (`dmesg`)",
        )

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What the spawner answers; None where it has died, or does not answer in time."""
        reader, writer = self._streams or await self._connect()
        try:
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                writer.write(json.dumps(request).encode() + b"\n")
                while line := await reader.readline():
                    answer: dict[str, Any] = json.loads(line)
                    if answer["folder"] == request["folder"]:
                        return answer
            log.error("The spawner has died, and is replaced")
        except TimeoutError:
            log.error("The spawner did not answer within %g s, and is replaced", SPAWN_TIMEOUT_S)
        except (OSError, ValueError) as error:
            log.error("The spawner is replaced: %s", error)
        return None

    async def _connect(self) -> tuple[StreamReader, StreamWriter]:
        try:
            if self._now is None:
                self._now = await asyncio.to_thread(self._start)
            self._streams = await asyncio.open_connection(sock=self._now.line)
        except OSError as error:
            raise _no_process(str(error)) from error
        return self._streams

    def _end(self) -> None:
        """Have no spawner any more. One that hangs is ended: it must not start late what another one starts."""
        former, streams, self._now, self._streams = self._now, self._streams, None, None
        if streams is not None:
            streams[1].close()
        if former is not None:
            former.line.close()
            with suppress(ProcessLookupError):
                os.kill(former.pid, signal.SIGKILL)
            threading.Thread(target=_reap, args=(former.pid,), name="takes in a spawner", daemon=True).start()


def _pid_in(answer: dict[str, Any]) -> int:
    if "error" in answer:
        raise _no_process(answer["error"])
    return int(answer["pid"])


def _no_process(why: str) -> HostTrouble:
    return HostTrouble(
        f"The host does not let another process start: {why}", hint="Look at the limits of the agent's user (`ulimit`)"
    )


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
