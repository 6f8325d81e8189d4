"""Keeps the SSH server running beside the agent."""

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from dstack.agent.paths import Home
from dstack.kit.pauses import Pauses

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 2.0
FIRST_RETRY = timedelta(seconds=0.5)
LONGEST_RETRY = timedelta(seconds=30)


class SshServer:
    """The SSH server beside the agent: kept running, told what it has to know, heard."""

    def __init__(
        self,
        home: Home,
        descriptors_max: int,
        on_ready: Callable[[dict[str, Any]], None],
        on_guests: Callable[[str, int], None],
    ) -> None:
        """Args:
        descriptors_max: how many files and sockets it may have open, and each program that it starts.
        on_ready: told `{"port", "host_key"}` each time it listens.
        on_guests: told how many are in a job (by its id), each time somebody comes or goes.
        """
        self._home = home
        self._descriptors_max = descriptors_max
        self._on_ready = on_ready
        self._on_guests = on_guests
        self._process: Process | None = None
        self._inside: set[str] = set()
        """The jobs that somebody is in."""

    def job_ended(self, job_id: str) -> None:
        """Have those who are in a job leave."""
        if self._process is not None and self._process.stdin is not None and self._process.returncode is None:
            self._process.stdin.write(json.dumps({"ended": job_id}).encode() + b"\n")

    async def keep(self) -> None:
        """Start it, and start it again when it dies, until cancelled."""
        pauses = Pauses(FIRST_RETRY, LONGEST_RETRY)
        while True:
            try:
                if await self._live():
                    pauses.reset()
            except Exception:  # whatever one life of it met, the next one is needed
                log.exception("The SSH server is started again")
            for job_id in list(self._inside):
                self._hear(job_id, 0)
            pause_s = pauses.next().total_seconds()
            log.warning("The SSH server has ended and starts again in %.1f s", pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self) -> bool:
        """One life of it. Returns whether it ever listened."""
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dstack.agent.sshd"),
            *("--home", str(self._home.root), "--descriptors-max", str(self._descriptors_max)),
            stdin=PIPE,
            stdout=PIPE,
        )
        try:
            ready = await _first_line(process)
            if ready is not None:
                self._on_ready(ready)
                await self._listen(process)
            log.info("The SSH server ended with code %s", await process.wait())
            return ready is not None
        finally:
            await _end(process)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            self._hear(str(said["job_id"]), int(said["guests"]))

    def _hear(self, job_id: str, guests: int) -> None:
        if guests:
            self._inside.add(job_id)
        else:
            self._inside.discard(job_id)
        self._on_guests(job_id, guests)


async def _first_line(process: Process) -> dict[str, Any] | None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError:
        process.kill()
        return None
    return dict(json.loads(line)) if line else None


async def _end(process: Process) -> None:
    """The end of its input ends it; what hangs is killed."""
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
