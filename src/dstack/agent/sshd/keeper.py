"""Keeps the SSH server running beside the agent."""

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dstack.agent.paths import Home

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 2.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0


async def keep_sshd(home: Home, on_ready: Callable[[dict[str, Any]], None]) -> None:
    """Start the SSH server, and start it again when it dies, until cancelled.

    Args:
        on_ready: told `{"port", "host_key"}` each time it listens.
    """
    retry_s = FIRST_RETRY_S
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dstack.agent.sshd", "--home", str(home.root), stdin=PIPE, stdout=PIPE
        )
        try:
            if (ready := await _first_line(process)) is not None:
                on_ready(ready)
                retry_s = FIRST_RETRY_S
            code = await process.wait()
        finally:
            await _end(process)
        log.warning("The SSH server has ended with code %s and starts again in %s s", code, retry_s)
        await asyncio.sleep(retry_s)
        retry_s = min(retry_s * 2, LONGEST_RETRY_S)


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
